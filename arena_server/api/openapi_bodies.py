"""The inference routes' request bodies, for `/openapi.json`: the fields that most clients send.

Any others may be sent: the engine is the judge of a body, and each version of vLLM has more of them. After OpenAI's
reference (https://platform.openai.com/docs/api-reference), Anthropic's for /v1/messages, and vLLM's protocol classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 1}
OBJECT: Schema = {"type": "object", "additionalProperties": True}
OBJECTS: Schema = {"type": "array", "items": OBJECT}
TEXTS: Schema = {"type": "array", "items": TEXT}
TOKENS: Schema = {"type": "array", "items": {"type": "integer"}}
TEXT_OR_TEXTS: Schema = {"anyOf": [TEXT, TEXTS]}
TEXTS_OR_TOKENS: Schema = {"anyOf": [TEXT, TEXTS, TOKENS, {"type": "array", "items": TOKENS}]}
# A text, or its parts (text, images, audio).
CONTENT: Schema = {"anyOf": [TEXT, OBJECTS, {"type": "null"}]}
MODEL: Schema = {"type": "string", "minLength": 1, "description": "A configured name, or an alias"}
STREAM: Schema = {"type": "boolean", "default": False, "description": "Answer with server-sent events"}

SAMPLING: Mapping[str, Schema] = {
    "stream": STREAM,
    "temperature": {"type": "number", "minimum": 0},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
}
# OpenAI's for a text and for a chat, and those that vLLM adds.
GENERATION: Mapping[str, Schema] = {
    **SAMPLING,
    "stream_options": {"type": "object", "properties": {"include_usage": FLAG, "continuous_usage_stats": FLAG}},
    "max_tokens": COUNT,
    "n": COUNT,
    "stop": TEXT_OR_TEXTS,
    "seed": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "logit_bias": {"type": "object", "additionalProperties": {"type": "number"}},
    "user": TEXT,
    "top_k": {"type": "integer", "minimum": -1},
    "min_p": {"type": "number", "minimum": 0, "maximum": 1},
    "repetition_penalty": {"type": "number", "exclusiveMinimum": 0},
    "min_tokens": {"type": "integer", "minimum": 0},
    "ignore_eos": FLAG,
}
MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {"role": TEXT, "content": CONTENT, "name": TEXT, "tool_calls": OBJECTS, "tool_call_id": TEXT},
        "required": ["role"],
        "additionalProperties": True,
    },
}
CHAT: Mapping[str, Schema] = {
    **GENERATION,
    "messages": MESSAGES,
    "max_completion_tokens": COUNT,
    "logprobs": FLAG,
    "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
    "response_format": OBJECT,
    "tools": OBJECTS,
    "tool_choice": {"anyOf": [TEXT, OBJECT]},
    "parallel_tool_calls": FLAG,
}
COMPLETION: Mapping[str, Schema] = {
    **GENERATION,
    "prompt": TEXTS_OR_TOKENS,
    "suffix": TEXT,
    "echo": FLAG,
    "logprobs": {"type": "integer", "minimum": 0},
}
RESPONSES: Mapping[str, Schema] = {
    **SAMPLING,
    "input": {"anyOf": [TEXT, OBJECTS]},
    "instructions": TEXT,
    "max_output_tokens": COUNT,
    "tools": OBJECTS,
    "reasoning": OBJECT,
    "text": OBJECT,
}
ANTHROPIC: Mapping[str, Schema] = {
    **SAMPLING,
    "messages": MESSAGES,
    "max_tokens": COUNT,
    "system": CONTENT,
    "stop_sequences": TEXTS,
    "top_k": {"type": "integer", "minimum": 0},
    "tools": OBJECTS,
    "tool_choice": OBJECT,
    "metadata": OBJECT,
}
EMBEDDINGS: Mapping[str, Schema] = {
    "input": TEXTS_OR_TOKENS,
    "encoding_format": {"enum": ["float", "base64"]},
    "dimensions": COUNT,
    "user": TEXT,
}
COHERE_EMBED: Mapping[str, Schema] = {"texts": TEXTS, "input_type": TEXT, "embedding_types": TEXTS}
POOLING: Mapping[str, Schema] = {"input": TEXTS_OR_TOKENS, "messages": MESSAGES, "task": TEXT}
CLASSIFY: Mapping[str, Schema] = {"input": TEXT_OR_TEXTS}
SCORE: Mapping[str, Schema] = {"text_1": TEXT_OR_TEXTS, "text_2": TEXT_OR_TEXTS}
DOCUMENTS: Schema = {"type": "array", "items": {"anyOf": [TEXT, OBJECT]}}
RERANK: Mapping[str, Schema] = {"query": TEXT, "documents": DOCUMENTS, "top_n": {"type": "integer"}}
TOKENIZE: Mapping[str, Schema] = {"prompt": TEXT, "messages": MESSAGES, "add_special_tokens": FLAG}
DETOKENIZE: Mapping[str, Schema] = {"tokens": TOKENS}
AUDIO: Mapping[str, Schema] = {
    "file": {"type": "string", "contentMediaType": "application/octet-stream"},
    "language": TEXT,
    "prompt": TEXT,
    "response_format": TEXT,
    "temperature": {"type": "number", "minimum": 0},
}


@dataclass(frozen=True, slots=True)
class InferenceBody:
    """One route's: `fields` beside the model, of which `required` have to be there."""

    summary: str
    fields: Mapping[str, Schema]
    required: tuple[str, ...] = ()
    form: bool = False

    @property
    def media_type(self) -> str:
        """JSON, or a form with a file."""
        return "multipart/form-data" if self.form else "application/json"

    def schema(self) -> Schema:
        """The body."""
        return {
            "type": "object",
            "properties": {"model": MODEL, **self.fields},
            "required": ["model", *self.required],
            "additionalProperties": True,
        }


BODIES: Mapping[str, InferenceBody] = {
    "/v1/chat/completions": InferenceBody("Chat", CHAT, ("messages",)),
    "/v1/completions": InferenceBody("Go on with a text", COMPLETION, ("prompt",)),
    "/v1/responses": InferenceBody("OpenAI's Responses", RESPONSES, ("input",)),
    "/v1/messages": InferenceBody("Anthropic's Messages", ANTHROPIC, ("messages", "max_tokens")),
    "/v1/messages/count_tokens": InferenceBody("Count a conversation's tokens", ANTHROPIC, ("messages",)),
    "/v1/embeddings": InferenceBody("Embeddings", EMBEDDINGS, ("input",)),
    "/v2/embed": InferenceBody("Embeddings, as Cohere has them", COHERE_EMBED),
    "/pooling": InferenceBody("The model's hidden states, pooled", POOLING),
    "/classify": InferenceBody("Classify texts", CLASSIFY),
    "/score": InferenceBody("How alike two texts are", SCORE),
    "/v1/score": InferenceBody("How alike two texts are", SCORE),
    "/rerank": InferenceBody("Put documents in order", RERANK, ("query", "documents")),
    "/v1/rerank": InferenceBody("Put documents in order", RERANK, ("query", "documents")),
    "/v2/rerank": InferenceBody("Put documents in order", RERANK, ("query", "documents")),
    "/v1/audio/transcriptions": InferenceBody("Write down what is said", AUDIO, ("file",), form=True),
    "/v1/audio/translations": InferenceBody("Write it down in English", AUDIO, ("file",), form=True),
    "/tokenize": InferenceBody("Text to tokens", TOKENIZE),
    "/detokenize": InferenceBody("Tokens to text", DETOKENIZE, ("tokens",)),
}
