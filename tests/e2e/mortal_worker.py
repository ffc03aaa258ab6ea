"""The estate's worker: the stack's own, which dies by SIGKILL where the estate has written so.

`mortal_worker.py POINTS PAUSE`: POINTS is the file of the points, and while there is a file PAUSE
the worker of a dead one waits before it looks for work.
"""

import sys
import time
from pathlib import Path

if __name__ == "__main__":
    from innkeeper.worker import environment

    environment.prepare()  # before Prefect is imported
    import sabotage

    from innkeeper.worker import __main__ as worker
    from innkeeper.worker import warm  # noqa: F401 - as good a time as any for what is slow

    points, pause = map(Path, sys.argv[1:])
    sabotage.heed(points)
    while pause.exists():
        time.sleep(0.02)
    sys.exit(worker.main())
