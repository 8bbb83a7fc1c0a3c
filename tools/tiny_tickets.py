"""Customer-support tickets from a grammar: the text that most tasks of the tiny base work on."""

from dataclasses import dataclass
from random import Random

from tools.tiny_words import (
    CITIES,
    COMPANIES,
    FIRST_NAMES,
    LAST_NAMES,
    MONTHS,
    PRODUCT_LIST,
    WEEKDAYS,
)

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
# Kept out of every generated code, so that the demonstration tenants' codes are new to the base.
RESERVED = ("AQ", "GX")

TOPICS: dict[str, list[str]] = {
    "refund": [
        "I would like my money back for the {product}.",
        "Please refund the {product}.",
        "When will I get the refund for my {product}?",
        "I returned the {product} and still wait for the money.",
        "The refund for the {product} has not reached my bank yet.",
        "You promised me a refund of {amount} for the {product}.",
        "I want to be reimbursed for the {product}, it cost {amount}.",
    ],
    "delivery": [
        "My {product} has not arrived yet.",
        "The parcel with the {product} is late.",
        "Where is my {product}? It should have come on {weekday}.",
        "The tracking page of my {product} has not moved since {weekday}.",
        "The courier never came with the {product}.",
        "I am still waiting for the delivery of the {product}.",
        "The shipment got lost on its way to {city}.",
    ],
    "damage": [
        "The {product} arrived broken.",
        "My {product} has a big scratch on it.",
        "The box was crushed and the {product} is cracked.",
        "The {product} was damaged in the post.",
        "There is a dent in the {product} I just unpacked.",
        "The {product} fell apart when I opened the box.",
    ],
    "wrong item": [
        "I ordered a {product} but got a {other}.",
        "You sent me the wrong thing: a {other} and not the {product}.",
        "There was a {other} in the box, I wanted the {product}.",
        "The colour of the {product} is not the one I chose.",
        "This is not the {product} I ordered.",
    ],
    "missing part": [
        "The screws for the {product} are missing.",
        "One part of the {product} was not in the box.",
        "The {product} came without the manual and the cable.",
        "A piece of my {product} is missing.",
        "I cannot build the {product}, the bag with small parts is not there.",
    ],
    "login": [
        "I cannot log in to my account.",
        "The site does not accept my password.",
        "I forgot my password and the reset mail never comes.",
        "My account is locked after three tries.",
        "The sign in page shows an error each time.",
        "I cannot get into my profile since {weekday}.",
    ],
    "billing": [
        "I was charged twice for the {product}.",
        "My card shows {amount} but the price was lower.",
        "There is a mistake on my bill.",
        "Why did you take {amount} from my account?",
        "The total of the {product} order is wrong.",
        "You billed me for a {other} that I never bought.",
    ],
    "invoice": [
        "I need an invoice for the {product}.",
        "Please send me the receipt of {amount}.",
        "Our office needs the invoice with the tax number.",
        "Could I have a copy of the bill as a file?",
        "The invoice for my {product} is not in the mail.",
    ],
    "address": [
        "I moved to {city}, please change my address.",
        "The address of my order is wrong, it must go to {city}.",
        "Can you send the {product} to {city} and not to my old home?",
        "Please update the street and the city in my account.",
        "I typed the wrong house number for the {product}.",
    ],
    "cancel": [
        "Please cancel my order of the {product}.",
        "I do not need the {product} any more, stop the order.",
        "Can I still cancel the {product}?",
        "I ordered the {product} by mistake, please do not send it.",
        "I changed my mind about the {product}.",
    ],
    "subscription": [
        "I want to end my monthly plan.",
        "How do I move to the yearly plan?",
        "My membership was renewed without a question.",
        "Please stop the subscription at the end of {month}.",
        "The plan costs {amount} now, I want the smaller one.",
    ],
    "warranty": [
        "My {product} stopped working after two months, is it covered?",
        "How long is the warranty of the {product}?",
        "The {product} failed within the first year, I want it repaired.",
        "Does the guarantee cover the motor of the {product}?",
        "I want to claim the warranty for my {product}.",
    ],
    "exchange": [
        "Can I swap the {product} for a {other}?",
        "The {product} is too small, I need a larger size.",
        "I want to exchange the {product} for another colour.",
        "Please change my {product} for a {other}.",
    ],
    "return": [
        "I want to send the {product} back.",
        "How do I return the {product}?",
        "Please send me a return label for the {product}.",
        "The {product} does not suit me and I will send it back.",
    ],
    "stock": [
        "When will the {product} be back in stock?",
        "Is the {product} available in {city}?",
        "The {product} is sold out, do you get more?",
        "Do you have ten pieces of the {product}?",
    ],
    "product question": [
        "How heavy is the {product}?",
        "Does the {product} work with a {other}?",
        "Can I wash the {product}?",
        "Is the {product} made of steel or wood?",
        "How do I set up the {product}?",
    ],
    "app error": [
        "The app crashes when I open the cart.",
        "Your page stays white on my phone.",
        "The search in the app does not work since {weekday}.",
        "I see error {number} when I try to pay.",
        "The button to save does nothing.",
    ],
    "discount": [
        "My discount code does not work.",
        "The voucher of {amount} was not taken off.",
        "Where do I enter the coupon?",
        "The sale price of the {product} was not used.",
    ],
    "praise": [
        "I love my new {product}, thank you!",
        "Your team was so kind on the phone.",
        "The {product} came in one day, great work!",
        "Just a note to say that the {product} is wonderful.",
    ],
    "complaint": [
        "Your service is very bad.",
        "I called four times and nobody helped me.",
        "The man on the phone was rude to me.",
        "I am very unhappy with your shop.",
    ],
}
URGENCY: dict[str, list[str]] = {
    "high": [
        "This is urgent.", "Please answer at once.", "I need help right now!", "I cannot wait.",
        "It must be solved today.", "Please hurry.", "As soon as possible, please.",
    ],
    "normal": [
        "Please answer this week.", "A reply in the next days would be good.",
        "Please have a look when you can.", "I hope to hear from you soon.",
    ],
    "low": [
        "There is no rush.", "Take your time.", "It is not urgent.", "No hurry at all.",
        "Whenever you have time.",
    ],
}  # fmt: skip
ORDER_PHRASES = [
    "My order number is {order}.", "Order {order}.", "Order number: {order}.",
    "The order is {order}.",
    "It is about order {order}.", "Reference {order}.", "Ref: {order}", "See order {order}.",
    "I ordered it on {date}, number {order}.", "(order {order})",
    "The number on the box is {order}.",
    "order no. {order}", "Regarding order {order}.", "Case {order}.",
]  # fmt: skip
EXTRAS = [
    "I bought it on {date}.", "I paid {amount}.", "I live in {city}.", "It was a gift.",
    "My mail is {email}.", "You can reach me at {email}.", "I bought it from {company}.",
    "I am a customer of {company} since {year}.", "The {product} cost {amount}.",
    "My colleague {friend} had the same problem.", "I wrote to you on {weekday} already.",
    "My customer number is {customer}.", "I also have a {other} from you.", "It is for my office.",
]  # fmt: skip
GREETINGS = ["Hello,", "Hi,", "Hi there,", "Dear team,", "Good morning,", "Good day,", "Hey,",
             "Dear {company} team,", "Hello {company},", "To whom it may concern,"]  # fmt: skip
CLOSINGS = ["Thanks, {name}", "Thank you.", "Best, {name}", "Regards, {name}", "{name}", "Thanks!",
            "Kind regards, {name}", "Yours, {name}", "Best wishes, {name}"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket's text and the facts it states."""

    text: str
    topic: str
    urgency: str
    fields: dict[str, str]


def shaped(rng: Random, shape: str) -> str:
    """Fill a shape: ``A`` a letter, ``0`` a digit, ``x`` either, ``a`` a small letter."""
    while True:
        out = []
        for mark in shape:
            if mark == "A":
                out.append(rng.choice(LETTERS))
            elif mark == "0":
                out.append(rng.choice(DIGITS))
            elif mark == "x":
                out.append(rng.choice(LETTERS + DIGITS))
            elif mark == "a":
                out.append(rng.choice(LETTERS).lower())
            else:
                out.append(mark)
        text = "".join(out)
        if not any(reserved in text for reserved in RESERVED):
            return text


ID_SHAPES = ["00000", "000000", "0000", "A-00000", "AA0000", "AA-0000", "xxxxxx", "AAA-000",
             "#00000",
             "0000-00", "A00A00", "xxxx-xxxx", "AA00-AA", "00-0000", "#0000",
             "0000000"]  # fmt: skip
CODE_SHAPES = ["AA-AAA", "A0", "AAA", "A-00", "AA-00", "00", "AA0", "AAA-0", "A00", "AA-A", "aaaa",
               "AAAA", "AA_00", "0A", "a-0", "aa-aaa", "AA-AA", "AA-0", "A", "000",
               "AA-AAAA"]  # fmt: skip


def make_id(rng: Random) -> str:
    """An order number or the like."""
    return shaped(rng, rng.choice(ID_SHAPES))


def make_codes(rng: Random, count: int) -> list[str]:
    """Different codes of one shape, often with one prefix: a made-up house style."""
    shape = rng.choice(CODE_SHAPES)
    head, dash, tail = shape.partition("-")
    prefix = shaped(rng, head) + dash if dash and rng.random() < 0.6 else ""
    tail = tail if prefix else shape
    codes: list[str] = []
    for _ in range(200):
        code = prefix + shaped(rng, tail)
        if code not in codes and not any(reserved in code for reserved in RESERVED):
            codes.append(code)
        if len(codes) == count:
            return codes
    return codes + [shaped(rng, "AA-000") for _ in range(count - len(codes))]


def make_amount(rng: Random) -> str:
    """A price."""
    number = (
        f"{rng.randint(2, 900)}.{rng.choice(['00', '50', '99', '95', str(rng.randint(10, 99))])}"
    )
    return rng.choice(["{} euros", "${}", "{} EUR", "{} dollars", "£{}"]).format(number)


def make_date(rng: Random) -> str:
    """A calendar date in one of three styles."""
    day, month = rng.randint(1, 28), rng.randrange(12)
    year = rng.randint(2018, 2027)
    return rng.choice(
        [
            f"{day} {MONTHS[month]}",
            f"{MONTHS[month]} {day}, {year}",
            f"{year}-{month + 1:02}-{day:02}",
        ]
    )


def make_fields(rng: Random) -> dict[str, str]:
    """All facts a ticket may state."""
    first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    company = rng.choice(COMPANIES)
    product, other = rng.sample(PRODUCT_LIST, 2)
    return {
        "name": rng.choice([first, f"{first} {last}"]),
        "friend": rng.choice(FIRST_NAMES),
        "company": company,
        "product": product,
        "other": other,
        "amount": make_amount(rng),
        "date": make_date(rng),
        "weekday": rng.choice(WEEKDAYS),
        "month": rng.choice(MONTHS),
        "city": rng.choice(CITIES),
        "email": f"{first}.{last}@{company}.{rng.choice(['com', 'org', 'net', 'example'])}".lower(),
        "order": make_id(rng),
        "customer": make_id(rng),
        "number": str(rng.randint(100, 999)),
        "year": str(rng.randint(2005, 2026)),
    }


def make_ticket(rng: Random, topic: str | None = None, with_order: bool | None = None) -> Ticket:
    """A ticket; only the facts that its text states are in its fields."""
    topic = topic or rng.choice(list(TOPICS))
    urgency = rng.choices(["none", "high", "normal", "low"], [4, 2, 2, 2])[0]
    order = rng.random() < 0.7 if with_order is None else with_order
    body = [rng.choice(TOPICS[topic])]
    if order:
        body.append(rng.choice(ORDER_PHRASES))
    body += rng.sample(EXTRAS, rng.choice([0, 0, 1, 1, 2]))
    if urgency != "none":
        body.append(rng.choice(URGENCY[urgency]))
    if rng.random() < 0.5:
        rng.shuffle(body)
    parts = body
    if rng.random() < 0.5:
        parts = [rng.choice(GREETINGS), *parts]
    if rng.random() < 0.5:
        parts = [*parts, rng.choice(CLOSINGS)]
    template = rng.choices([" ", "\n"], [5, 1])[0].join(parts)
    facts = make_fields(rng)
    stated = {key: value for key, value in facts.items() if "{" + key + "}" in template}
    return Ticket(template.format(**facts), topic, urgency, stated)
