"""What the service is asked and what it answers, as OpenAPI shows it."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

MAX_K, MAX_ITEMS, MAX_BATCH = 1000, 10_000, 256

Id = Annotated[str, Field(min_length=1, max_length=512)]


def _only(given: str, absent: str) -> JsonDict:
    return {
        "required": [given],
        "properties": {given: {"not": {"type": "null"}}, absent: {"type": "null"}},
    }


class RecommendRequest(BaseModel):
    """A list for one user: known by id, or new with a history."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"oneOf": [_only("user", "history"), _only("history", "user")]},
    )

    user: Id | None = Field(None, description="Id of a user in the log.")
    history: list[Id] | None = Field(
        None,
        min_length=1,
        max_length=MAX_ITEMS,
        description="Item ids, oldest first, in place of a user. Unknown ones are skipped.",
    )
    k: int = Field(10, ge=1, le=MAX_K, description="Length of the list.")
    exclude_seen: bool = Field(True, description="Leave out what is in the history.")
    candidates: list[Id] | None = Field(
        None, min_length=1, max_length=MAX_ITEMS, description="Choose among these items only."
    )
    model: str | None = Field(None, description="A name of /v1/models; the served one if absent.")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.user is None) == (self.history is None):
            raise ValueError("give either user or history")
        return self


class BatchRequest(BaseModel):
    """Several lists at once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    requests: list[RecommendRequest] = Field(min_length=1, max_length=MAX_BATCH)


class Item(BaseModel):
    """A place in a list."""

    rank: int
    item_id: str
    score: float
    title: str


class RecommendResponse(BaseModel):
    """A list, and which weights it is from."""

    model: str
    version: str
    items: list[Item]


class BatchResponse(BaseModel):
    """The lists in the order of the requests."""

    responses: list[RecommendResponse]


class Health(BaseModel):
    """Whether the service answers."""

    status: str = "ok"
    version: str


class ModelInfo(BaseModel):
    """A model that can be asked."""

    name: str
    kind: str
    served: bool
    search: Literal["exact", "approximate"]


class Models(BaseModel):
    """What is served."""

    models: list[ModelInfo]
    version: str
    dataset: str
    users: int
    items: int
    trouble: str = Field(description="Why the newest state of the run is not served, if so.")


class Found(BaseModel):
    """Ids that fit what was typed."""

    ids: list[str]
    titles: list[str]


class Compared(BaseModel):
    """An item of a list, seen from two models."""

    rank: int
    item_id: str
    title: str
    other_rank: int = Field(description="Its rank in the full ranking of the other model.")
    taken: int = Field(description="How often it was taken in the log.")
    because: str = Field(description="The item of the history that is nearest for this model.")


class Side(BaseModel):
    """A model's list."""

    model: str
    items: list[Compared]


class Comparison(BaseModel):
    """Two models' lists for the same wish, and in words what sets them apart."""

    history: list[str]
    sides: list[Side]
    words: list[str]


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str
