"""A worker that dies by SIGKILL at a point: `doomed_worker.py VERB STEP before|after`."""

import sys

from innkeeper.domain.lifecycle import Verb
from innkeeper.worker import __main__ as worker
from innkeeper.worker import environment

if __name__ == "__main__":
    environment.prepare()  # before Prefect is imported
    import sabotage

    verb, step, moment = sys.argv[1:]
    sabotage.install(sabotage.Point(Verb(verb), step, moment))
    sys.exit(worker.main())
