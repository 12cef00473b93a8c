"""Somebody deletes a queue that is in use."""

from __future__ import annotations

import time

from tests.faults.books import Books
from tests.faults.run import IN_FLIGHT, Fault, Run


async def deleted_live(run: Run) -> None:
    """Lost is what lay in the queue, and no more: all that is sent from then on is handled, or not confirmed.

    Consumers are slower than publishers, so that there is something to lose.
    """
    async with run.of("queue deleted live"):
        await run.consume(work=run.work(15))
        await run.publish(pace=10)
        await run.until_share("confirmed", 0.4)
        struck = time.monotonic()
        lay_there = await run.ground.server.tools.delete(run.url, run.queue)
        gone = Fault(struck, time.monotonic())
        await run.until(lambda: len(run.of_kind("gaps")) > 0, "a consumer is told that its queue was made anew", 10)
        await run.recovered(gone, "confirmed", "ended")
        books = await run.finished(share=0.0, quiet=2)
        losable, complaints = reckon_losses(books, gone, lay_there)
        told = {entry.pid for entry in books.of("log") if "is disconnected" in entry.text and entry.at > struck}
        missed = {worker.pid for worker in run.consumers} - told
        if missed and (run.bounds.tells_all or not told):
            complaints.append(f"{len(told)} of {len(run.consumers)} consumers were told that their queue is gone")
        run.judge(books, duplicates=len(books.unknown), losses=losable, also=complaints)


def reckon_losses(books: Books, gone: Fault, lay_there: int) -> tuple[set[str], list[str]]:
    """The ids that may be lost, and what is wrong with their number.

    It may hit only what was sent before the queue was gone. And no more of it than the broker says lay there, but
    for what was being sent at that moment, on its way to a queue that was no longer there when it came, and for
    what was in hand at that moment: that is gone, too, if the broker takes the connection down with the queue.
    """
    during = {entry.id for entry in books.attempts_within(gone.struck, gone.removed)}
    delivered = {entry.id for entry in books.of("begun")}
    losable = {one for one, entry in books.confirmed.items() if entry.began <= gone.removed}
    certain = books.lost - during - delivered
    complaints = []
    if len(cut_off := books.lost & delivered) > IN_FLIGHT:
        complaints.append(f"{len(cut_off)} messages are lost that were delivered, of {IN_FLIGHT} at most in hand")
    if lay_there == 0:
        complaints.append("nothing lay in the queue when it was deleted: the deletion hit nothing")
    if len(certain) > lay_there:
        complaints.append(f"{len(certain)} messages are lost, but only {lay_there} lay in the queue")
    return losable, complaints
