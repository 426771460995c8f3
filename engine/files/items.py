"""Read the files of an item, and tell its caller of each that is left out or not used whole."""

from __future__ import annotations

from engine.base import Send
from engine.files.decoder import BusyError, FileDecoder
from engine.files.file import Film, PictureFile, UnreadableError, files_of
from engine.ipc.protocol import ItemIn, PartLeftOut, SessionWarning


async def read_files(
    item: ItemIn, decoder: FileDecoder, send: Send
) -> dict[int, PictureFile | Film]:
    """What could be read, by its place among the item's parts."""
    found: dict[int, PictureFile | Film] = {}
    busy: BusyError | None = None
    for index, file in files_of(item).items():
        try:
            if busy is not None:
                raise busy
            read = await decoder.read(file)
        except UnreadableError as error:
            busy = error if isinstance(error, BusyError) else None
            send(PartLeftOut(item.session, item.item, index, str(error)))
            continue
        found[index] = read
        if read.remark:
            told = f"the {file.kind} is not used whole: {read.remark}"
            send(SessionWarning(item.session, f"{file.kind}_cut", told))
    return found
