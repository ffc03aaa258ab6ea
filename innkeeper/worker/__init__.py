"""The warm worker: a Prefect worker that runs deployments in its own process.

A stock process worker spends 3 s and about 2 CPU seconds to start each run. This one has Prefect
and the flows imported already, is told by an event that a run is scheduled, and runs it on its own
event loop. Start it with `python -m innkeeper.worker`.
"""
