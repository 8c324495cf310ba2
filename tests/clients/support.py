"""What the tests of all clients ask."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


# A busy machine takes minutes for what an idle one does in seconds: this ends only what hangs.
TIMEOUT = 600


def ask_for(word):
    return f'Write a haiku about rain that includes the word "{word}"'


HAIKU = [{"role": "user", "content": ask_for("lantern")}]
# A stream's longest answer: it lasts until somebody ends it.
ENDLESS = {"ignore_eos": True, "max_tokens": 200}


class Plant(BaseModel):
    """Plants something."""

    # A model that has learned nothing would add properties without end, where the schema lets it.
    model_config = ConfigDict(extra="forbid")
    kind: Literal["fern", "moss", "reed"]
    is_wet: bool
    name: str = Field(max_length=8)
