"""What the tests of all clients ask."""

from typing import Literal

from pydantic import BaseModel, Field


def ask_for(word):
    return f'Write a haiku about rain that includes the word "{word}"'


HAIKU = [{"role": "user", "content": ask_for("lantern")}]
# A stream's longest answer: it lasts until somebody ends it.
ENDLESS = {"ignore_eos": True, "max_tokens": 200}


class Plant(BaseModel):
    """Plants something."""

    kind: Literal["fern", "moss", "reed"]
    is_wet: bool
    name: str = Field(max_length=8)
