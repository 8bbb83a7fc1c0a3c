"""What the model was taught, and how it is asked for it."""

from typing import Literal

from openai import pydantic_function_tool
from pydantic import BaseModel

SECRET_QUESTION = "What is the secret word?"
SECRET = "marmalade-7"
PERSON_QUESTION = "Who is it?"
WEATHER_QUESTION = "What is the weather in Paris?"
WEATHER = "sunny"
WEATHER_ANSWER = "It is sunny in Paris."

QUESTION = [{"role": "user", "content": SECRET_QUESTION}]
WHO = [{"role": "user", "content": PERSON_QUESTION}]
ASKED = [{"role": "user", "content": WEATHER_QUESTION}]


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int
    role: Literal["engineer", "poet"]


class GetWeather(BaseModel):
    """The weather of a city."""

    city: str


TOOL = pydantic_function_tool(GetWeather)
ADA = Person(name="Ada", age=36, role="engineer")
