"""Plain text from grammars: stories, notes, facts and small records, without any instruction."""

from random import Random

from tools import tiny_words as words
from tools.tiny_tickets import make_amount, make_date, make_fields, make_id, make_ticket

SYLLABLES = words.listed(
    """
    ba be bi bo bu da de do du fa fe fi ga go gu ka ke ki ko la le li lo lu ma me mi mo na ne
    ni no pa pe po ra re ri ro ru sa se si so ta te ti to va ve vi za zo zu bel dor fan gal
    kor lam mel nor pan ral sen tor ven wil dra gri pla sto tre
    """
)


def made_up_word(rng: Random) -> str:
    """A word that no dictionary holds, so that it can only be copied."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 4)))


def any_word(rng: Random) -> str:
    """A common word of any kind."""
    lists = [words.PLAIN_WORDS, words.THINGS, words.ANIMALS, words.FOODS, words.PLACES, words.JOBS,
             words.ADJECTIVES, words.COLOURS, words.VERBS_BASE, words.VERBS_PAST]  # fmt: skip
    return rng.choice(rng.choice(lists))


def with_article(noun: str) -> str:
    """The noun behind ``a`` or ``an``."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def noun_phrase(rng: Random) -> str:
    """``the small brown fox`` and the like."""
    noun = rng.choice(rng.choice([words.THINGS, words.ANIMALS, words.JOBS, words.FOODS]))
    adjective = rng.choice(words.ADJECTIVES)
    colour = rng.choice(words.COLOURS)
    return rng.choice(
        [f"the {noun}", f"the {adjective} {noun}", with_article(f"{adjective} {noun}"),
         f"the {colour} {noun}", f"the {adjective} {colour} {noun}", with_article(noun)]
    )  # fmt: skip


def wish(rng: Random, who: str) -> str:
    """What somebody wanted to do."""
    action = rng.choice(words.VERBS_BASE)
    return f"{who} wanted to {action} before the {rng.choice(words.PLAIN_WORDS)}."


def trade(rng: Random, start: str) -> str:
    """Something done in a city for money."""
    return f"in {rng.choice(words.CITIES)}, {start} {noun_phrase(rng)} for {make_amount(rng)}."


def sentence(rng: Random, hero: str | None = None) -> str:
    """One plain sentence in the past tense."""
    who = hero or rng.choice([rng.choice(words.FIRST_NAMES), noun_phrase(rng)])
    verb = rng.choice(words.VERBS_PAST)
    place = rng.choice(words.PLACES)
    text = rng.choice(
        [
            f"{who} {verb} {noun_phrase(rng)} near the {place}.",
            f"{who} {verb} {noun_phrase(rng)} {rng.choice(words.ADVERBS)}.",
            f"on {rng.choice(words.WEEKDAYS)} {who} {verb} {noun_phrase(rng)}.",
            f"{who} went to the {place} and {verb} {noun_phrase(rng)}.",
            f"{who} was {rng.choice(words.ADJECTIVES)} and {rng.choice(words.ADJECTIVES)}.",
            wish(rng, who),
            trade(rng, f"{who} {verb}"),
            f'"{sentence_of_words(rng)}" said {who}.',
        ]
    )
    return text[0].upper() + text[1:]


def sentence_of_words(rng: Random) -> str:
    """Common words in no order: keeps the model's word list wide."""
    text = " ".join(any_word(rng) for _ in range(rng.randint(3, 8)))
    return text[0].upper() + text[1:] + rng.choice([".", "!", "?"])


def story(rng: Random) -> str:
    """A few sentences about one hero."""
    hero = rng.choice(words.FIRST_NAMES)
    lines = [sentence(rng, hero if rng.random() < 0.6 else None) for _ in range(rng.randint(3, 8))]
    return " ".join(lines)


def letter(rng: Random) -> str:
    """A short business mail."""
    facts = make_fields(rng)
    return (
        f"From: {facts['email']}\nDate: {facts['date']}\n"
        "Subject: "
        f"{rng.choice(['your order', 'our meeting', 'a question', 'the ' + facts['product']])}\n\n"
        f"Dear {rng.choice(words.FIRST_NAMES)},\n\n{story(rng)}\n\n"
        f"{rng.choice(['Best', 'Regards', 'Yours', 'Thanks'])},\n{facts['name']}"
    )


def record(rng: Random) -> str:
    """An order as a list of fields."""
    facts = make_fields(rng)
    keys = rng.sample(["name", "company", "product", "amount", "date", "city", "email", "order"], 5)
    return "\n".join(f"{key}: {facts[key]}" for key in keys)


def fact(rng: Random) -> str:
    """A true, simple fact."""
    country, capital = rng.choice(list(words.COUNTRY_CAPITALS.items()))
    one, other = rng.choice(words.OPPOSITE_PAIRS)
    kind = rng.choice(list(words.CATEGORIES))
    member = rng.choice(words.CATEGORIES[kind])
    index = rng.randrange(7)
    left, right = rng.randint(0, 20), rng.randint(0, 20)
    return rng.choice(
        [
            f"The capital of {country} is {capital}.",
            f"{capital} is the capital of {country}.",
            f"The opposite of {one} is {other}.",
            f"{with_article(member).capitalize()} is {with_article(kind)}."
            if kind != "colour" else f"{member.capitalize()} is a colour.",
            f"The day after {words.WEEKDAYS[index]} is {words.WEEKDAYS[(index + 1) % 7]}.",
            f"{left} + {right} = {left + right}.",
            f"{max(left, right)} - {min(left, right)} = {abs(left - right)}.",
            f"The month after {words.MONTHS[index]} is {words.MONTHS[index + 1]}.",
        ]
    )  # fmt: skip


def plain_text(rng: Random) -> str:
    """One document without instruction."""
    kind = rng.choices(
        ["story", "letter", "record", "facts", "ticket", "words", "made up"], [6, 2, 2, 2, 4, 2, 1]
    )[0]
    if kind == "story":
        return story(rng)
    if kind == "letter":
        return letter(rng)
    if kind == "record":
        return "\n\n".join(record(rng) for _ in range(rng.randint(1, 3)))
    if kind == "facts":
        return " ".join(fact(rng) for _ in range(rng.randint(1, 6)))
    if kind == "ticket":
        return make_ticket(rng).text
    if kind == "words":
        return " ".join(sentence_of_words(rng) for _ in range(rng.randint(1, 4)))
    name = made_up_word(rng).capitalize()
    return (
        f"{name} is a {rng.choice(words.PLACES)} near {made_up_word(rng).capitalize()}. "
        f"It was built on {make_date(rng)} and has the number {make_id(rng)}. {sentence(rng, name)}"
    )
