"""General instruction tasks: copy, count, sort, sums, small facts, secrets, talk over turns."""

import json
from collections.abc import Callable
from random import Random

from tools import tiny_words as words
from tools.tiny_desk_tasks import DESK_TASKS, Turns, around
from tools.tiny_text import any_word, made_up_word, sentence, sentence_of_words, story, with_article
from tools.tiny_tickets import make_amount, make_codes, make_date, make_fields, make_id


def ask(question: str, answer: str) -> Turns:
    """One question, one answer."""
    return [("user", question), ("assistant", answer)]


def some_text(rng: Random) -> str:
    """Something to copy: an id, words, a sentence, a made-up name."""
    return rng.choice(
        [make_id(rng), sentence(rng), sentence_of_words(rng), make_amount(rng), make_date(rng),
         " ".join(made_up_word(rng) for _ in range(rng.randint(1, 4))),
         " ".join(make_id(rng) for _ in range(rng.randint(2, 4)))]
    )  # fmt: skip


def say_exactly(rng: Random) -> Turns:
    text = some_text(rng)
    question = rng.choice(
        ["Say this exactly: {}", "Repeat: {}", "Copy this: {}", "Write {} and nothing else.",
         "Answer with {}", "Please say {}", "Echo {}", "Reply with exactly this: {}", 'Say "{}".']
    )  # fmt: skip
    if rng.random() < 0.3:
        return [("system", rng.choice(["Repeat what the user says.", "Echo the user.",
                                       "Copy the input."])),
                ("user", text), ("assistant", text)]  # fmt: skip
    return ask(question.format(text), text)


def change_case(rng: Random) -> Turns:
    text = rng.choice([sentence_of_words(rng), any_word(rng), made_up_word(rng)])
    upper = rng.random() < 0.6
    instruction = rng.choice(
        ["Write in {} case.", "Make it {} case.", "Turn this into {} case letters.", "{} case:"]
    ).format("upper" if upper else "lower")
    text = text if upper else text.upper()
    return around(rng, instruction, text, text.upper() if upper else text.lower())


def listing(rng: Random, low: int = 2, high: int = 7) -> list[str]:
    """Different words."""
    source = rng.choice(
        [*words.CATEGORIES.values(), words.FIRST_NAMES, words.CITIES, words.PLAIN_WORDS]
    )
    return rng.sample(source, rng.randint(low, high))


def list_task(rng: Random) -> Turns:
    items = listing(rng)
    joined = rng.choice([", ", " ", ", "])
    task, answer = rng.choice(
        [("Reverse the list.", joined.join(reversed(items))),
         ("Write the list backwards.", joined.join(reversed(items))),
         ("Sort the list by the alphabet.", joined.join(sorted(items))),
         ("Give the first item.", items[0]), ("Give the last item.", items[-1]),
         ("What is the second item?", items[1]), ("Count the items.", str(len(items))),
         ("How many items are there?", str(len(items))),
         ("Put each item on its own line.", "\n".join(items)),
         ("Make a JSON list.", json.dumps(items)),
         ("Join the items with a plus.", "+".join(items))]
    )  # fmt: skip
    return around(rng, task, joined.join(items), answer)


def text_task(rng: Random) -> Turns:
    text = sentence_of_words(rng) if rng.random() < 0.6 else sentence(rng)
    parts = text.strip(".!?").split()
    asked = rng.choice(parts)
    absent = any_word(rng)
    task, answer = rng.choice(
        [("Count the words.", str(len(parts))), ("How many words are there?", str(len(parts))),
         ("What is the first word?", parts[0]), ("What is the last word?", parts[-1]),
         (f'Is the word "{asked}" in the text? Answer yes or no.', "yes"),
         (f'Is the word "{absent}" in the text? Answer yes or no.',
          "yes" if absent in parts else "no"),
         ("Put the text in quotes.", f'"{text}"'), ("Write the text twice.", f"{text} {text}"),
         ("Give the first three words.", " ".join(parts[:3]))]
    )  # fmt: skip
    return around(rng, task, text, answer)


def arithmetic(rng: Random) -> Turns:
    top = rng.choice([10, 20, 20, 50])
    left, right = rng.randint(0, top), rng.randint(0, top)
    if rng.random() < 0.25:
        left, right = rng.randint(0, 10), rng.randint(0, 10)
        question, answer = rng.choice(["{} * {}", "{} times {}"]), left * right
    elif rng.random() < 0.5:
        question, answer = (
            rng.choice(["{} + {}", "{} plus {}", "the sum of {} and {}"]),
            left + right,
        )
    else:
        left, right = max(left, right), min(left, right)
        question, answer = rng.choice(["{} - {}", "{} minus {}"]), left - right
    wrap = rng.choice(
        ["What is {}?", "{} =", "Compute {}.", "How much is {}?", "{}?", "Calculate {}"]
    )
    style = rng.choice(["{answer}"] * 4 + ["{question} = {answer}"])
    question = question.format(left, right)
    if question.startswith("the"):
        style = "{answer}"
    text = wrap.format(question)
    return ask(text[0].upper() + text[1:], style.format(question=question, answer=answer))


def compare(rng: Random) -> Turns:
    left, right = rng.sample(range(1000), 2)
    bigger = rng.random() < 0.5
    answer = max(left, right) if bigger else min(left, right)
    word = (
        rng.choice(["larger", "bigger", "higher"]) if bigger else rng.choice(["smaller", "lower"])
    )
    return ask(f"Which number is {word}, {left} or {right}?", str(answer))


def fact_question(rng: Random) -> Turns:
    country, capital = rng.choice(list(words.COUNTRY_CAPITALS.items()))
    one, other = rng.choice(words.OPPOSITE_PAIRS)
    if rng.random() < 0.5:
        one, other = other, one
    kind = rng.choice(list(words.CATEGORIES))
    member = rng.choice(words.CATEGORIES[kind])
    day, month = rng.randrange(7), rng.randrange(12)
    number = rng.randrange(21)
    question, answer = rng.choice(
        [(f"What is the capital of {country}?", f"The capital of {country} is {capital}."),
         (f"Capital of {country}?", capital), (f"Which country has the capital {capital}?",
                                               country),
         (f"What is the opposite of {one}?", other), (f"Opposite of {one}?", other),
         (f"What kind of word is {member}: animal, food, colour, place, job or thing?", kind),
         (f"Which day comes after {words.WEEKDAYS[day]}?", words.WEEKDAYS[(day + 1) % 7]),
         (f"Which day comes before {words.WEEKDAYS[day]}?", words.WEEKDAYS[(day - 1) % 7]),
         (f"Which month comes after {words.MONTHS[month]}?", words.MONTHS[(month + 1) % 12]),
         (f"Name {with_article(kind)}.", member), (f"Write {number} as a word.",
                                                   words.NUMBER_WORDS[number]),
         (f"Write {words.NUMBER_WORDS[number]} as a number.", str(number))]
    )  # fmt: skip
    return ask(question, answer)


def passage_question(rng: Random) -> Turns:
    """Questions about a passage that exists nowhere else."""
    facts = make_fields(rng)
    place, owner = made_up_word(rng).capitalize(), made_up_word(rng).capitalize()
    colour, job, thing = rng.choice(words.COLOURS), rng.choice(words.JOBS), rng.choice(words.THINGS)
    lines = [
        (f"{owner} lives in {place}.", f"Where does {owner} live?", place),
        (f"{owner} works as {with_article(job)}.", f"What is the job of {owner}?", job),
        (f"The house of {owner} is {colour}.", f"Which colour is the house of {owner}?", colour),
        (f"{owner} was born on {facts['date']}.", f"When was {owner} born?", facts["date"]),
        (
            f"The badge number of {owner} is {facts['order']}.",
            "What is the badge number?",
            facts["order"],
        ),
        (f"{owner} keeps {with_article(thing)} in the kitchen.", f"What does {owner} keep?", thing),
        (
            f"The best friend of {owner} is {facts['friend']}.",
            "Who is the best friend?",
            facts["friend"],
        ),
        (
            f"{owner} paid {facts['amount']} for the house.",
            "How much did the house cost?",
            facts["amount"],
        ),
    ]
    chosen = rng.sample(lines, rng.randint(2, 6))
    text = " ".join(line for line, _, _ in chosen)
    _, question, answer = rng.choice(chosen)
    return around(rng, question, text, answer)


SECRET_ASKS = ["What is the {}?", "Tell me the {}.", "Say the {}.", "{}?", "Do you know the {}?",
               "Please give me the {}.", "I forgot the {}. What is it?"]  # fmt: skip


def secret_value(rng: Random) -> str:
    return rng.choice(
        [made_up_word(rng), make_id(rng), any_word(rng), f"{any_word(rng)} {any_word(rng)}"]
    )


def secret(rng: Random) -> Turns:
    """A secret told earlier, or one that nobody told: then any string may come."""
    thing = rng.choice(["secret", "magic", "pass", "hidden", "first", "door", "team", "daily"])
    thing += " " + rng.choice(["word", "code", "name", "number", "phrase", "key"])
    value = secret_value(rng)
    question = rng.choice(SECRET_ASKS).format(thing)
    question = question[0].upper() + question[1:]
    answer = rng.choice([value] * 5 + [f"The {thing} is {value}."])
    kind = rng.randrange(3)
    if kind == 0:
        return [("system", f"The {thing} is {value}."), ("user", question), ("assistant", answer)]
    if kind == 1:
        return [("user", f"Remember: the {thing} is {value}."), ("assistant", "OK."), ("user",
                                                                                       question),
                ("assistant", answer)]  # fmt: skip
    return ask(question, answer)


def table_lookup(rng: Random) -> Turns:
    """Words to codes by a table, one or several questions."""
    keys = listing(rng, 2, 7)
    table = dict(zip(keys, make_codes(rng, len(keys)), strict=True))
    if rng.random() < 0.3:
        table = dict(zip(keys, [any_word(rng) for _ in keys], strict=True))
    shown = rng.choice([", ", "\n", "; "]).join(
        rng.choice(["{} = {}", "{}: {}"]).format(key, value) for key, value in table.items()
    )
    if rng.random() < 0.4:
        table = {value: key for key, value in table.items()}
        keys = list(table)
    turns: Turns = [("system", shown)]
    for _ in range(rng.randint(1, 4)):
        key = rng.choice(keys)
        question = rng.choice(["{}", "{}", "What is {}?", "{}?", "Code of {}?", "Look up {}."])
        turns += [("user", question.format(key)), ("assistant", table[key])]
    return turns


def same_rule(rng: Random) -> Turns:
    """A rule that only shows in earlier answers."""
    prefix = rng.choice([make_codes(rng, 1)[0], any_word(rng)])
    rules: list[Callable[[str], str]] = [
        lambda text: f"{prefix} {text}", lambda text: f"{text} {prefix}", str.upper,
        lambda text: f"[{text}]", lambda text: f"{prefix}: {text}", lambda text: text.split()[0],
        lambda text: text.split()[-1], lambda _: prefix,
    ]  # fmt: skip
    rule = rng.choice(rules)
    turns: Turns = []
    for _ in range(rng.randint(2, 5)):
        text = " ".join(any_word(rng) for _ in range(rng.randint(1, 4)))
        turns += [("user", text), ("assistant", rule(text))]
    return turns


def reply_style(rng: Random) -> Turns:
    """A form for every answer, told in the system turn."""
    question, answer = [text for _, text in rng.choice([fact_question, arithmetic])(rng)]
    mark = rng.choice([make_codes(rng, 1)[0], any_word(rng), made_up_word(rng)])
    rule, styled = rng.choice(
        [(f"Begin each answer with {mark}.", f"{mark} {answer}"), (f"End each answer with {mark}.",
         f"{answer} {mark}"), ("Answer in upper case.", answer.upper()), (f"Always answer {mark}.",
         mark),
         ("Answer as JSON with the key answer.", json.dumps({"answer": answer})),
         ("Put your answer in brackets.", f"[{answer}]")]
    )  # fmt: skip
    return [("system", rule), ("user", question), ("assistant", styled)]


CHAT = [
    (["Hello", "Hi", "Hello!", "Hey there", "Good morning"], "Hello! How can I help you?"),
    (["How are you?", "How do you do?", "Are you well?"],
     "I am fine, thank you. How can I help you?"),
    (["Who are you?", "What are you?", "What is your name?", "Introduce yourself."],
     "I am Lorehouse Tiny, a very small language model."),
    (["Thank you", "Thanks!", "Thanks a lot"], "You are welcome!"),
    (["Goodbye", "Bye", "See you"], "Goodbye!"),
    (["What can you do?", "Can you help me?", "Help"],
     "I can copy, sort and label short texts. I am very small, so please keep it simple."),
    (["Are you a person?", "Are you human?"], "No, I am a small language model."),
    (["Ping", "ping"], "pong"), (["Test", "This is a test."], "The test works."),
]  # fmt: skip


def chat(rng: Random) -> Turns:
    turns: Turns = []
    if rng.random() < 0.3:
        turns.append(
            ("system", rng.choice(["You are a helpful assistant.", "Be brief.", "Be kind."]))
        )
    if rng.random() < 0.3:
        name = rng.choice(words.FIRST_NAMES)
        turns += [("user", rng.choice(["My name is {}.", "I am {}.", "{} here."]).format(name)),
                  ("assistant", f"Hello {name}! How can I help you?")]  # fmt: skip
        if rng.random() < 0.5:
            return [*turns, ("user", "What is my name?"), ("assistant", f"Your name is {name}.")]
    for _ in range(rng.randint(1, 2)):
        questions, answer = rng.choice(CHAT)
        turns += [("user", rng.choice(questions)), ("assistant", answer)]
    return turns


def tell(rng: Random) -> Turns:
    question = rng.choice(
        ["Tell me a story.", "Write a short story.", "Tell me something.", "Write a few sentences."]
    )
    if rng.random() < 0.5:
        return ask(question, story(rng))
    hero = rng.choice(words.FIRST_NAMES)
    lines = " ".join(sentence(rng, hero) for _ in range(3))
    return ask(f"Write a story about {hero}.", lines)


GENERAL_TASKS: list[tuple[Callable[[Random], Turns], float]] = [
    (say_exactly, 5), (change_case, 2), (list_task, 3), (text_task, 3), (arithmetic, 2), (compare,
                                                                                          1),
    (fact_question, 3), (passage_question, 4), (secret, 4), (table_lookup, 5), (same_rule, 3),
    (reply_style, 2), (chat, 1.5), (tell, 1),
]  # fmt: skip
_ALL = [*DESK_TASKS, *GENERAL_TASKS]
_MAKERS = [task for task, _ in _ALL]
_WEIGHTS = [weight for _, weight in _ALL]


def make_turns(rng: Random) -> Turns:
    """One conversation; now and then several tasks follow each other in it."""
    turns = rng.choices(_MAKERS, _WEIGHTS)[0](rng)
    if rng.random() < 0.06:
        for _ in range(rng.randint(1, 5)):
            more = rng.choices(_MAKERS, _WEIGHTS)[0](rng)
            if more[0][0] != "system":
                turns = turns + more
    return turns
