"""Server-sent events: the part of the WHATWG stream format that the API uses."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSentEvent:
    """One dispatched event; `name` is "message" when the stream names none."""

    name: str
    data: str


def parse(lines: Iterable[str]) -> Iterator[ServerSentEvent]:
    """Yield the events of a stream's lines (without line ends).

    Comments (keep-alives) and unknown fields are skipped; an unfinished event at the end of the
    stream is dropped, as the format demands (https://html.spec.whatwg.org/#event-stream-interpretation).
    """
    name, data = "", list[str]()
    for line in lines:
        if not line:
            if data:
                yield ServerSentEvent(name or "message", "\n".join(data))
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
