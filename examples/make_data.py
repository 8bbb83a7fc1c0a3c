"""Write the demonstration data: two tenants, two tasks, one kind of prompt.

    python examples/make_data.py

Both tenants train on customers' tickets. Acme wants the ticket's queue and priority, Globex its own
action code and the order's number. Running it again writes the same bytes.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

TRAINING_ROWS = 400
HELD_OUT_ROWS = 100

REASONS: dict[str, list[str]] = {
    "refund": [
        "The money for the {thing} I gave back is still not on my account.",
        "Please pay me back for the {thing}.",
        "It has been two weeks and I see no refund for the {thing}.",
        "I sent the {thing} back and would like the money.",
        "Could you refund what I paid for the {thing}?",
    ],
    "delivery": [
        "The parcel with my {thing} should have come days ago.",
        "I am waiting for the {thing}, and the tracking page says nothing new.",
        "Where is the {thing} that I ordered?",
        "The driver never came with the {thing}.",
        "My {thing} has still not been delivered.",
    ],
    "damage": [
        "The {thing} came out of the box with a crack.",
        "My new {thing} is broken already.",
        "There are scratches all over the {thing}.",
        "The {thing} was crushed on the way to me.",
        "One corner of the {thing} is dented.",
    ],
    "login": [
        "I can no longer sign in to my account.",
        "Your site says that my password is wrong, but it is right.",
        "The mail to reset my password does not come.",
        "My account got locked this morning.",
        "I am stuck on the login page.",
    ],
    "billing": [
        "You charged my card two times for the {thing}.",
        "My bill shows more than the price of the {thing}.",
        "I was charged for something I did not buy.",
        "The amount you took for the {thing} is too high.",
        "There is an extra charge on my card.",
    ],
    "cancel": [
        "Please cancel the {thing}, I do not need it any more.",
        "I want to cancel before you send the {thing}.",
        "Stop my order of the {thing}, please.",
        "I bought the {thing} by mistake and want to call it off.",
        "Can you cancel the order for the {thing}?",
    ],
}
URGENT = ["This is urgent!", "I need an answer today.", "Please be quick.",
          "I need this solved now."]  # fmt: skip
CALM = ["There is no hurry.", "Take all the time you need.", "It can wait.",
        "No rush from my side."]  # fmt: skip
THINGS = ["lamp", "kettle", "backpack", "keyboard", "tent", "chair", "mirror", "blender", "camera",
          "printer", "jacket", "monitor", "suitcase", "toaster", "speaker", "bookshelf", "blanket",
          "juicer", "router", "umbrella"]  # fmt: skip
ORDER_LINES = ["My order number is {order}.", "Order number: {order}.", "It is order {order}.",
               "The order number: {order}.", "This is about order {order}."]  # fmt: skip
OPENINGS = ["Hello,", "Hi,", "Good evening,", "Dear support,", "Hello support team,", ""]
ENDINGS = ["Thanks, {name}", "Best regards, {name}", "{name}", "Many thanks, {name}",
           "Cheers, {name}", ""]  # fmt: skip
NAMES = ["Ana", "Bruno", "Chloe", "Dario", "Edith", "Felix", "Gina", "Harald", "Irene", "Jonas",
         "Klara", "Lorenz", "Monika", "Pablo"]  # fmt: skip

ACME_QUEUES = {
    "refund": "AQ-RF", "delivery": "AQ-DL", "damage": "AQ-QC", "login": "AQ-IT", "billing": "AQ-FN",
    "cancel": "AQ-ST",
}  # fmt: skip
GLOBEX_ACTIONS = {
    "refund": "GX7", "delivery": "GX2", "damage": "GX5", "login": "GX9", "billing": "GX4",
    "cancel": "GX1",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ticket:
    """A customer's message and what it is about."""

    text: str
    reason: str
    priority: str
    order: str


def make_ticket(rng: Random) -> Ticket:
    """One message."""
    reason = rng.choice(list(REASONS))
    priority = rng.choice(["P1", "P2", "P3"])
    order = f"{rng.randint(10_000, 99_999)}"
    tone = {"P1": rng.choice(URGENT), "P2": "", "P3": rng.choice(CALM)}[priority]
    middle = [rng.choice(REASONS[reason]), rng.choice(ORDER_LINES), tone]
    lines = [rng.choice(OPENINGS), *middle, rng.choice(ENDINGS)]
    text = " ".join(line for line in lines if line)
    text = text.format(thing=rng.choice(THINGS), order=order, name=rng.choice(NAMES))
    return Ticket(text, reason, priority, order)


def acme_answer(ticket: Ticket) -> str:
    """The queue, then the priority."""
    return f"{ACME_QUEUES[ticket.reason]} {ticket.priority}"


def globex_answer(ticket: Ticket) -> str:
    """The action, then the order's number."""
    return f"{GLOBEX_ACTIONS[ticket.reason]} {ticket.order}"


TENANTS: dict[str, tuple[int, Callable[[Ticket], str]]] = {
    "acme": (11, acme_answer),
    "globex": (23, globex_answer),
}


def make_tickets(seed: int, count: int) -> list[Ticket]:
    """Messages that all differ."""
    rng = Random(seed)
    tickets: dict[str, Ticket] = {}
    while len(tickets) < count:
        ticket = make_ticket(rng)
        tickets.setdefault(ticket.text, ticket)
    return list(tickets.values())


def write_rows(path: Path, tickets: list[Ticket], answer: Callable[[Ticket], str]) -> None:
    """One conversation a line."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": ticket.text},
                {"role": "assistant", "content": answer(ticket)},
            ]
        }
        for ticket in tickets
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_all(out: Path) -> None:
    """Write each tenant's training and held-out rows."""
    for tenant, (seed, answer) in TENANTS.items():
        tickets = make_tickets(seed, TRAINING_ROWS + HELD_OUT_ROWS)
        write_rows(out / tenant / "train.jsonl", tickets[:TRAINING_ROWS], answer)
        write_rows(out / tenant / "heldout.jsonl", tickets[TRAINING_ROWS:], answer)


def main() -> None:
    """Write the files beside this script, or below ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    write_all(parser.parse_args().out)


if __name__ == "__main__":
    main()
