"""Request and response bodies of the HTTP API; the OpenAPI page is generated from them."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

MAX_K, MAX_ITEMS, MAX_BATCH = 1000, 10_000, 256
MAX_BATCH_ITEMS = 10_000
"""Largest sum of k in a batch, about a megabyte of JSON."""

Id = Annotated[str, Field(min_length=1, max_length=512)]


def _exactly(present: str, absent: str) -> JsonDict:
    """Return a JSON schema that requires one field and forbids a value for the other."""
    return {
        "required": [present],
        "properties": {present: {"not": {"type": "null"}}, absent: {"type": "null"}},
    }


class RecommendRequest(BaseModel):
    """A request for one list, for a user of the log or for a history."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"oneOf": [_exactly("user", "history"), _exactly("history", "user")]},
    )

    user: Id | None = Field(
        None, description="ID of a user. One who is not in the log gets a `cold` list."
    )
    history: list[Id] | None = Field(
        None,
        max_length=MAX_ITEMS,
        description="Item IDs of a new user, oldest first, instead of `user`. Unknown IDs are "
        "skipped and returned as `skipped`.",
    )
    k: int = Field(10, ge=1, le=MAX_K, description="Maximum length of the list.")
    exclude_seen: bool = Field(True, description="Exclude items of the user's history.")
    candidates: list[Id] | None = Field(
        None, min_length=1, max_length=MAX_ITEMS, description="Recommend only these item IDs."
    )
    model: str | None = Field(
        None, description="Model name from /v1/models; the default model if absent."
    )

    @model_validator(mode="after")
    def _check_user_or_history(self) -> Self:
        if (self.user is None) == (self.history is None):
            raise ValueError("give either user or history")
        return self


class CompareRequest(RecommendRequest):
    """A request for the lists of two models."""

    hold_out: bool = Field(
        False,
        description="Leave the user's test items out of the history and return their ranks. For "
        "a user of the log only.",
    )

    @model_validator(mode="after")
    def _check_hold_out(self) -> Self:
        if self.hold_out and self.user is None:
            raise ValueError("hold_out needs a user: a history has no test items")
        return self


class BatchRequest(BaseModel):
    """Several requests in one call."""

    model_config = ConfigDict(extra="forbid", strict=True)

    requests: list[RecommendRequest] = Field(
        min_length=1,
        max_length=MAX_BATCH,
        description=f"The sum of all k is at most {MAX_BATCH_ITEMS:,}.",
    )

    @model_validator(mode="after")
    def _check_sum_of_k(self) -> Self:
        total = sum(request.k for request in self.requests)
        if total > MAX_BATCH_ITEMS:
            raise ValueError(
                f"the requests ask for {total:,} items, more than {MAX_BATCH_ITEMS:,}; split them"
            )
        return self


class Item(BaseModel):
    """One recommended item."""

    rank: int = Field(description="Position in the list, from 1.")
    item_id: str
    score: float = Field(description="Score by which the model ranks; not a probability.")
    title: str


class RecommendResponse(BaseModel):
    """A list of items and the model that ranked it."""

    impression_id: str = Field(
        description="ID of the list in the exposure log; send it back with clicks."
    )
    run: str = Field(description="Name of the run that answered; one for each arm of an A/B test.")
    model: str
    version: str = Field(description="Version of the weights.")
    cold: bool = Field(
        description="Whether nothing is known of the user: the items are the most popular ones, "
        "and their scores are numbers of interactions."
    )
    skipped: list[str] = Field(description="IDs of the history that are not in the catalogue.")
    items: list[Item] = Field(description="At most k items, best first.")


class RequestError(BaseModel):
    """Why one request of a batch has no list."""

    status: int = Field(description="The status that the request alone would have got.")
    detail: str = Field(description="What is wrong and what to do.")


class BatchResponse(BaseModel):
    """A list or an error for each request, in the same order."""

    responses: list[RecommendResponse | RequestError]


class Status(BaseModel):
    """Whether the process runs or takes requests."""

    status: Literal["ok", "draining"]


class Health(BaseModel):
    """Status of the service."""

    status: str = "ok"
    version: str = Field(description="Version of the weights.")


class ModelInfo(BaseModel):
    """A model of a run."""

    run: str = Field(description="Name of the run.")
    name: str
    kind: str = Field(description="Name of the model class.")
    served: bool = Field(description="Whether this is the default model.")
    search: Literal["exact", "approximate"]
    version: str = Field(description="Version of the weights of the run.")


class Models(BaseModel):
    """The models of all runs and the dataset of the first run."""

    models: list[ModelInfo]
    version: str = Field(description="Version of the weights of the first run.")
    dataset: str
    users: int = Field(description="Number of users.")
    items: int = Field(description="Number of items.")
    trouble: str = Field(
        description="Error of the last attempt to reload the run; empty if it succeeded."
    )


class SearchResults(BaseModel):
    """IDs that match a query."""

    ids: list[str]
    titles: list[str]


class ComparedItem(BaseModel):
    """An item of one model's list with its rank in the other model."""

    rank: int
    item_id: str
    title: str
    other_rank: int = Field(description="Rank of the item in the full ranking of the other model.")
    taken: int = Field(description="Number of interactions with the item in the log.")
    because: str = Field(
        description="Title of the history item with the most similar vector in this model; empty "
        "if there is none."
    )
    held_out: bool = Field(description="Whether this is a test item that was held out.")


class ComparedList(BaseModel):
    """The list of one model."""

    model: str
    items: list[ComparedItem]


class HeldOutItem(BaseModel):
    """A test item of the user, which the models did not see in the history."""

    item_id: str
    title: str
    ranks: list[int] = Field(
        description="Rank in the full ranking of each model, in the order of `sides`; none if the "
        "item is also in the history, and its items are excluded."
    )


class Comparison(BaseModel):
    """The lists of the base and the default model for one request, and their differences."""

    history: list[str] = Field(description="Titles of the last items of the history, oldest first.")
    sides: list[ComparedList] = Field(description="One list for each model.")
    words: list[str] = Field(description="Sentences that summarise the differences.")
    held_out: list[HeldOutItem] = Field(
        description="With `hold_out`: the test items of the user, each once, at most 20."
    )


class ErrorResponse(BaseModel):
    """The body of every error."""

    detail: str = Field(description="What is wrong and what to do.")
