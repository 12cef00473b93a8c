"""`python -m unibus.cli`, for where the script `unibus` is not on the PATH."""

from unibus.cli import main

if __name__ == "__main__":
    main()
