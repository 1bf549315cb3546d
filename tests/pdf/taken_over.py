"""The parent of reading processes that a file has taken over: each says to its owner what the file holds.

The first byte tells what it does then: `e` ends, `f` says it again for ever, `s` is silent for ever,
`a` asks its parent for what no reading process asks for, `d` dozes and uses a little CPU time for ever,
`b` is busy for ever.
"""

import os
import signal
import time

from app.pdf.sandbox import child
from app.pdf.sandbox.parent import main
from app.pdf.wire import LENGTH_BYTES, length_of


def live(file: int, channel: int, asking: int) -> None:
    with open(channel, "rb", closefd=False) as asked:  # else its end is a reset, and what it said may be lost
        asked.read(length_of(asked.read(LENGTH_BYTES)))
    said = os.read(file, os.fstat(file).st_size)
    how, said = said[:1], said[1:]
    while said:
        with open(channel, "wb", closefd=False) as told:
            told.write(said)
        if how != b"f":
            break
    if how == b"a":
        os.write(asking, b"a shell")
    if how in (b"s", b"a"):
        signal.pause()
    if how == b"b":
        time.sleep(0.2)  # until the test has taken its CPU away
    while how in (b"d", b"b"):
        began = time.process_time()
        while time.process_time() - began < 0.001:
            pass
        if how == b"d":
            time.sleep(0.2)


if __name__ == "__main__":
    child.live = live
    main()
