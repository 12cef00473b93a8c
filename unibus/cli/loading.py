"""From `module:attribute` on the command line to the Bus, with an error for each way to miss it."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from types import ModuleType

from unibus import Bus, ConfigurationError


def load_bus(target: str) -> Bus:
    """Import the module, the current folder included, and take the Bus from it."""
    module_name, separator, attribute = target.partition(":")
    if module_name.endswith(".py") or os.sep in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace(os.sep, ".")
        raise ConfigurationError(f"{target!r} is a file; name the module: {dotted}:{attribute or 'bus'}")
    if not separator or not module_name or not attribute:
        raise ConfigurationError(
            f"{target!r} does not say where the bus is; write module:attribute, e.g. {module_name or 'app'}:bus"
        )
    module = _import(module_name)
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(_missing(module, attribute))
        found = getattr(found, part)
    if not isinstance(found, Bus):
        raise ConfigurationError(_not_a_bus(target, found, module))
    return found


def _import(name: str) -> ModuleType:
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The module itself, or a package on the way to it; anything else is missing inside of it.
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigurationError(
                f"there is no module {error.name!r} in {folder} or on the path; "
                "run the command in the folder that holds it"
            ) from error
        raise ConfigurationError(_failed(name, error)) from error
    except Exception as error:
        raise ConfigurationError(_failed(name, error)) from error


def _failed(name: str, error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}, line {error.lineno}"
    else:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}, line {last.lineno}"
    return f"importing {name!r} failed at {place}: {type(error).__name__}: {error} (--traceback shows all of it)"


def _buses(module: ModuleType) -> list[str]:
    return sorted(name for name, value in vars(module).items() if isinstance(value, Bus))


def _missing(module: ModuleType, attribute: str) -> str:
    buses = _buses(module)
    if buses:
        near = difflib.get_close_matches(attribute, buses, n=1)
        hint = f"did you mean {module.__name__}:{(near or buses)[0]}?"
    else:
        hint = f"it has no Bus at all; write `{attribute} = Bus()` at its top level"
    return f"module {module.__name__!r} has no {attribute!r}; {hint}"


def _not_a_bus(target: str, found: object, module: ModuleType) -> str:
    buses = _buses(module)
    if buses:
        hint = f"did you mean {module.__name__}:{buses[0]}?"
    elif callable(found):
        hint = "give its result a name at the module's top level, and name that here"
    else:
        hint = "name a unibus.Bus"
    return f"{target} is {_a(type(found).__name__)}, not a Bus; {hint}"


def _a(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"
