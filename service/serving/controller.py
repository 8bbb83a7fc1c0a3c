"""OpenAI's generation endpoints."""

from typing import Any

from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from service.http.errors import errors
from service.http.hanging_up import unless_gone
from service.serving import chat_answers, completion_answers
from service.serving.chat_schemas import ChatCompletion, ChatCompletionChunk, ChatRequest
from service.serving.completion_schemas import Completion, CompletionChunk, CompletionRequest
from service.serving.generation import Caller
from service.serving.replies import (
    EVENTS,
    RESPONSE_HEADERS,
    streamed,
    whole,
)
from service.serving.service import GenerationService
from service.serving.translate import (
    chat_order,
    completion_order,
    sticky_key,
    wants_usage,
)
from service.tenants.audit import CHANGES_NOTHING
from service.tenants.auth import allowance_of, requires, tenant_of
from service.tenants.principal import Principal
from service.wire import new_id

HttpRequest = Request[Principal, Any, Any]
Generations = NamedDependency[GenerationService]


class ChatController(Controller):
    """`/v1/chat/completions`."""

    path = "/v1/chat/completions"
    tags = ["Generation"]
    guards = [requires("generate")]

    @post(
        operation_id="createChatCompletion",
        summary="Answer a conversation",
        status_code=200,
        responses=errors(404, 409, 503),
        response_headers=RESPONSE_HEADERS,
        opt={CHANGES_NOTHING: True, EVENTS: ChatCompletionChunk},
    )
    async def create_chat_completion(
        self,
        request: HttpRequest,
        data: JSONBody[ChatRequest],
        generation: Generations,
    ) -> Response[ChatCompletion]:
        """Go on with a conversation, with exactly the model that is named, or not at all.

        With `stream: true` the answer is a stream of chunks that ends with `data: [DONE]`; an
        error after the first chunk is an event that carries the error body, and ends the stream.
        """
        include_usage = wants_usage(data.stream, data.stream_options)
        order = chat_order(data, generation.context_length)
        caller = _caller(request)
        target = await generation.named(caller.tenant, data.model, sticky_key(data))
        run = await generation.start(new_id("chatcmpl-"), caller, target, order)
        if data.stream:
            return streamed(run, chat_answers.events(run, include_usage))
        choices = await unless_gone(request, run.collect())
        return whole(run, chat_answers.completion(run, choices))


class CompletionController(Controller):
    """`/v1/completions`."""

    path = "/v1/completions"
    tags = ["Generation"]
    guards = [requires("generate")]

    @post(
        operation_id="createCompletion",
        summary="Go on with raw text",
        status_code=200,
        responses=errors(404, 409, 503),
        response_headers=RESPONSE_HEADERS,
        opt={CHANGES_NOTHING: True, EVENTS: CompletionChunk},
    )
    async def create_completion(
        self,
        request: HttpRequest,
        data: JSONBody[CompletionRequest],
        generation: Generations,
    ) -> Response[Completion]:
        """Go on with one or many prompts as they are: no chat template, whatever the model.

        With `stream: true` the answer is a stream of objects of the same kind that ends with
        `data: [DONE]`; an error after the first one is an event that carries the error body, and
        ends the stream.
        """
        include_usage = wants_usage(data.stream, data.stream_options)
        order = completion_order(data)
        caller = _caller(request)
        target = await generation.named(caller.tenant, data.model, sticky_key(data))
        run = await generation.start(new_id("cmpl-"), caller, target, order)
        if data.stream:
            return streamed(run, completion_answers.events(run, include_usage))
        choices = await unless_gone(request, run.collect())
        return whole(run, completion_answers.completion(run, choices))


def _caller(request: HttpRequest) -> Caller:
    # Not of dependencies: where a handler has several, Litestar makes each in a task of its own.
    asking = request.user
    return Caller(tenant_of(request), asking.key_id, asking.weight, allowance_of(request))
