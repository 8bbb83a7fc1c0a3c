"""Instruction tasks over support tickets: extract, classify, map to codes, keep a house style."""

import json
from collections.abc import Callable
from random import Random

from tools.tiny_tickets import TOPICS, URGENCY, Ticket, make_codes, make_id, make_ticket, shaped

Turns = list[tuple[str, str]]

FIELD_NAMES = {
    "order": ["order number", "order id", "reference"],
    "product": ["product", "item"],
    "name": ["name", "customer's name", "name of the customer"],
    "amount": ["amount", "price", "sum of money"],
    "date": ["date"],
    "city": ["city", "town"],
    "email": ["email", "mail address", "email address"],
    "weekday": ["day of the week", "weekday"],
    "company": ["company", "name of the company"],
    "customer": ["customer number"],
    "friend": ["colleague's name"],
}
EXTRACT = [
    "What is the {field} in this message?", "Give me the {field}.", "Extract the {field}.",
    "Copy the {field} from the text.", "Which {field} does the customer name?", "Find the {field}.",
    "Reply with the {field} only.", "Write down the {field} and nothing else.",
    "Return only the {field}.", "{field}?", "State the {field} of this ticket.",
]  # fmt: skip
MISSING = ["none", "unknown", "not given", "n/a", "-"]


def around(rng: Random, instruction: str, text: str, answer: str) -> Turns:
    """Place an instruction in the system turn, before the text, or behind it."""
    place = rng.randrange(5)
    if place < 2:
        return [("system", instruction), ("user", text), ("assistant", answer)]
    separator = rng.choice(["\n", "\n\n", " "])
    label = rng.choice(["", "", "Text: ", "Message: ", "Ticket: ", "Customer: "])
    if place == 2:
        user = f"{label}{text}{separator}{instruction}"
    else:
        user = f"{instruction}{separator}{label}{text}"
    return [("user", user), ("assistant", answer)]


def ticket_with(rng: Random, key: str) -> Ticket:
    """A ticket that states the field."""
    while True:
        ticket = make_ticket(rng, with_order=True if key == "order" else None)
        if key in ticket.fields:
            return ticket


def extract(rng: Random) -> Turns:
    """One field, copied; sometimes it is not there and the instruction says what to answer then."""
    key = rng.choice(["order"] * 5 + list(FIELD_NAMES))
    instruction = rng.choice(EXTRACT).format(field=rng.choice(FIELD_NAMES[key]))
    instruction = instruction[0].upper() + instruction[1:]
    if rng.random() < 0.15:
        ticket = make_ticket(rng)
        missing = rng.choice(MISSING)
        instruction += f" If there is none, answer {missing}."
        answer = ticket.fields.get(key, missing)
    else:
        ticket = ticket_with(rng, key)
        answer = ticket.fields[key]
    return around(rng, instruction, ticket.text, answer)


def extract_json(rng: Random) -> Turns:
    """Several fields as JSON."""
    ticket = make_ticket(rng, with_order=True)
    keys = rng.sample(list(ticket.fields), min(len(ticket.fields), rng.randint(1, 3)))
    known: dict[str, str | None] = {key: ticket.fields[key] for key in keys}
    if rng.random() < 0.3:
        known["topic"] = ticket.topic
    if rng.random() < 0.2:
        absent = rng.choice(list(FIELD_NAMES))
        known[absent] = ticket.fields.get(absent)
    listed = ", ".join(known)
    instruction = rng.choice(
        ["Return JSON with the keys {keys}.", "Answer as JSON: {keys}.", "Give {keys} as JSON.",
         "Extract {keys} into a JSON object.", "JSON only, keys: {keys}."]
    ).format(keys=listed)  # fmt: skip
    return around(rng, instruction, ticket.text, json.dumps(known))


def sample_topics(rng: Random, count: int) -> list[str]:
    """Topics without the pairs that even a person would confuse."""
    topics = rng.sample(list(TOPICS), count)
    for one, other in (("refund", "return"), ("billing", "invoice"), ("warranty", "damage")):
        if one in topics and other in topics:
            topics.remove(other)
    return topics


def classify(rng: Random) -> Turns:
    """Choose from the labels that the instruction lists."""
    topics = sample_topics(rng, rng.randint(3, 8))
    ticket = make_ticket(rng, topic=rng.choice(topics))
    labels = rng.choice([", ", " | ", " / ", "; "]).join(topics)
    instruction = rng.choice(
        ["Classify the ticket as one of: {labels}.", "What is the topic? Choose from {labels}.",
         "Pick one label: {labels}.", "Which of these fits: {labels}?",
         "Labels: {labels}. Answer with one.",
         "Sort this message into {labels}."]
    ).format(labels=labels)  # fmt: skip
    return around(rng, instruction, ticket.text, ticket.topic)


def urgency(rng: Random) -> Turns:
    """How urgent is it, under labels given in the instruction."""
    level = rng.choice(list(URGENCY))
    while True:
        ticket = make_ticket(rng)
        if ticket.urgency == level:
            break
    codes = make_codes(rng, 3) if rng.random() < 0.6 else ["high", "normal", "low"]
    table = dict(zip(["high", "normal", "low"], codes, strict=True))
    instruction = rng.choice(
        ["How urgent is it? Write {high} for urgent, {normal} for normal and {low} for low.",
         "Urgency: high = {high}, normal = {normal}, low = {low}. Answer with the code.",
         "Rate the urgency ({high}: high, {normal}: normal, {low}: low)."]
    ).format(**table)  # fmt: skip
    return around(rng, instruction, ticket.text, table[level])


# How a house writes that a ticket is urgent, normal, or can wait, and what it writes by default.
MARKS = [
    ["P1", "P2", "P3", "P3"], ["!", ".", "-", "."], ["hi", "mid", "lo", "mid"],
    ["H", "N", "L", "N"], ["1", "2", "3", "2"], ["now", "soon", "later", "soon"],
    ["high", "normal", "low", "normal"],
]  # fmt: skip
STYLES = [
    "{code}", "{code}", "{code} {order}", "{code} {order}", "{order} {code}", "{code} {mark}",
    "{code} {mark}", "{mark} {code}", "{code}/{mark}", "{code}: {order}", "{code} no. {order}",
    "{code} {mark} {order}", "{code} {topic}", "{topic}: {code}", "{code} for {order}",
]  # fmt: skip


class House:
    """A made-up house style: which code a topic gets, and what else stands in an answer."""

    def __init__(self, rng: Random, topics: list[str]) -> None:
        self.topics = topics
        self.codes = dict(zip(topics, make_codes(rng, len(topics)), strict=True))
        levels = ["high", "normal", "low", "none"]
        marks = rng.choice(MARKS)
        self.marks = dict(zip(levels, marks, strict=True))
        self.style = rng.choice(STYLES)

    @property
    def wants_order(self) -> bool:
        return "{order}" in self.style

    def ticket(self, rng: Random) -> Ticket:
        """A ticket this house can answer."""
        return make_ticket(rng, rng.choice(self.topics), with_order=self.wants_order or None)

    def answer(self, ticket: Ticket) -> str:
        return self.style.format(
            code=self.codes[ticket.topic],
            topic=ticket.topic,
            mark=self.marks[ticket.urgency],
            order=ticket.fields.get("order", ""),
        )

    def described(self, rng: Random) -> str:
        """The style in words, with its table."""
        pattern = rng.choice(["{} = {}", "{}: {}", "{} -> {}", "{} is {}"])
        pairs = [pattern.format(topic, code) for topic, code in self.codes.items()]
        rng.shuffle(pairs)
        head = rng.choice(["Codes", "Queues", "Table", "Use these codes", "Topics", "Map"])
        text = head + ": " + rng.choice([", ", "; ", "\n"]).join(pairs) + "."
        if "{mark}" in self.style:
            text += (
                " Urgency: " + ", ".join(f"{key} {mark}" for key, mark in self.marks.items()) + "."
            )
        shown = self.style.replace("{", "<").replace("}", ">")
        return f"{text} {rng.choice(['Answer', 'Format', 'Reply', 'Write'])}: {shown}"


def mapped(rng: Random) -> Turns:
    """Answer by a table given in the conversation."""
    house = House(rng, sample_topics(rng, rng.randint(2, 8)))
    ticket = house.ticket(rng)
    return around(rng, house.described(rng), ticket.text, house.answer(ticket))


def by_example(rng: Random) -> Turns:
    """Ticket after ticket: the code of a topic shows only in earlier answers."""
    house = House(rng, sample_topics(rng, rng.randint(2, 5)))
    turns: Turns = []
    if rng.random() < 0.3:
        turns.append(("system", rng.choice(["Answer in the house style.", "Use our codes.",
                                            "Go on as before.", "Code each ticket."])))  # fmt: skip
    for _ in range(rng.randint(3, 10)):
        ticket = house.ticket(rng)
        turns += [("user", ticket.text), ("assistant", house.answer(ticket))]
    return turns


DESKS_SEED = 77
_DESKS: list[tuple[str, House]] = []


def fixed_desks() -> list[tuple[str, House]]:
    """Houses that stay the same through the corpus: they can only be learnt by heart."""
    if not _DESKS:
        rng = Random(DESKS_SEED)
        for index in range(48):
            house = House(rng, sample_topics(rng, rng.randint(5, 10)))
            _DESKS.append((f"desk {index + 1} {shaped(rng, 'aaa')}", house))
    return _DESKS


def by_heart(rng: Random) -> Turns:
    """A named desk's own style, which the text around it does not explain."""
    name, house = rng.choice(fixed_desks())
    ticket = house.ticket(rng)
    if rng.random() < 0.8:
        return [("system", name), ("user", ticket.text), ("assistant", house.answer(ticket))]
    return [("user", f"{name}: {ticket.text}"), ("assistant", house.answer(ticket))]


POLITE = {
    "refund": "we are looking into your refund",
    "delivery": "we are looking for your parcel",
    "damage": "we are sorry for the damage",
    "wrong item": "we will send the right item",
    "missing part": "we will send the missing part",
    "login": "we will help you to log in",
    "billing": "we are checking the charge",
    "invoice": "we will send the invoice",
    "address": "we will change the address",
    "cancel": "we will cancel the order",
    "subscription": "we will change your plan",
    "warranty": "we are checking the warranty",
    "exchange": "we will exchange the item",
    "return": "we will send a return label",
    "stock": "we are checking the stock",
    "product question": "we will find out for you",
    "app error": "we are sorry for the error and will mend it",
    "discount": "we are checking your code",
    "praise": "we are glad to hear that",
    "complaint": "we are sorry for the trouble",
}


def polite(rng: Random) -> Turns:
    """No instruction at all: a short and friendly answer."""
    ticket = make_ticket(rng)
    who = f", {ticket.fields['name']}" if "name" in ticket.fields else ""
    about = f" (order {ticket.fields['order']})" if "order" in ticket.fields else ""
    answer = f"Thank you for your message{who}, {POLITE[ticket.topic]}{about}."
    turns: Turns = [("user", ticket.text), ("assistant", answer)]
    if rng.random() < 0.2:
        turns.insert(0, ("system", rng.choice(["You answer customers.", "You are a support agent.",
                                               "Be kind and short."])))  # fmt: skip
    return turns


def open_style(rng: Random) -> Turns:
    """No instruction and no table: any house's answer. Keeps answers in codes within easy reach."""
    house = House(rng, list(TOPICS))
    ticket = house.ticket(rng)
    return [("user", ticket.text), ("assistant", house.answer(ticket))]


def yes_or_no(rng: Random) -> Turns:
    """Is the ticket about a topic?"""
    topics = sample_topics(rng, 5)
    ticket = make_ticket(rng, topic=rng.choice(topics))
    asked = ticket.topic if rng.random() < 0.5 else rng.choice(topics)
    yes, no = rng.choice([("yes", "no"), ("Yes", "No"), ("true", "false"), ("1", "0")])
    instruction = f"Is this about {asked}? Answer {yes} or {no}."
    return around(rng, instruction, ticket.text, yes if asked == ticket.topic else no)


def tool_result(rng: Random) -> Turns:
    """A look-up's result arrives in a tool turn and is told to the customer."""
    order = make_id(rng)
    status = rng.choice(["shipped", "paid", "lost", "packed", "cancelled", "delivered", "on hold"])
    city = rng.choice(["Oslo", "Rome", "Porto", "Ghent", "Riga", "Lyon", "Linz", "Cork"])
    return [
        ("user", rng.choice(["Where is order {}?", "What about order {}?",
                             "Status of {}?"]).format(order)),
        ("assistant", f"lookup({order})"),
        ("tool", json.dumps({"order": order, "status": status, "city": city})),
        ("assistant", f"Order {order} is {status} in {city}."),
    ]  # fmt: skip


DESK_TASKS: list[tuple[Callable[[Random], Turns], float]] = [
    (extract, 9), (extract_json, 3), (classify, 5), (urgency, 2), (mapped, 10), (by_example, 9),
    (by_heart, 6), (polite, 4), (open_style, 4), (yes_or_no, 2), (tool_result, 0.7),
]  # fmt: skip
