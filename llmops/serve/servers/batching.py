"""The model and its continuous batch: the only module that touches the library's batching interface."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList

from llmops.serve.servers.sampling import PerRequestSampler, Sampling
from llmops.serve.servers.wire import ApiError

PAGE_TOKENS: Final = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the server's memory.

    Attributes:
        context: Longest prompt plus answer.
        kv_tokens: Tokens that the KV cache holds over all requests.
        batch_tokens: Tokens computed in one step; bounds the attention mask.
        sequences: Requests in a batch; bounds the logits.
    """

    context: int
    kv_tokens: int
    batch_tokens: int
    sequences: int


@dataclass(frozen=True, slots=True)
class Step:
    """News of a request: its tokens so far, and whether it is over."""

    tokens: list[int]
    done: bool
    error: str | None = None


class Batch:
    """A loaded model that generates for many requests at once."""

    def __init__(self, model: Any, tokenizer: Any, limits: Limits) -> None:
        self.tokenizer = tokenizer
        self.limits = limits
        self.ends = _end_tokens(model, tokenizer)
        self.defaults = model.generation_config
        config = GenerationConfig(do_sample=False, eos_token_id=list(self.ends) or -1, pad_token_id=0)
        batching = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=math.ceil(limits.kv_tokens / PAGE_TOKENS),
            max_batch_tokens=limits.batch_tokens,
            max_requests_per_batch=limits.sequences,
            use_async_batching=False,
            use_cuda_graph=False,
        )
        self._manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=batching)
        # In the place of the library's own processors, before the batch is made from them.
        processors = ContinuousBatchingLogitsProcessorList(transformers.LogitsProcessorList([PerRequestSampler()]))
        processors.tensors_required = 1
        self._manager.logit_processor = processors
        self._manager.start()

    @property
    def failure(self) -> str | None:
        """Why the generation thread died; None while it lives."""
        error = self._manager.background_thread_status.fatal_error
        if error is not None:
            return f"{type(error).__name__}: {error}"
        return None if self._manager.is_running() else "the generation thread ended"

    @property
    def load(self) -> tuple[int, int, float]:
        """Requests in the batch, requests waiting, share of the KV cache in use."""
        processor = self._manager.batch_processor
        if processor is None:
            return 0, 0, 0.0
        scheduler = processor.scheduler
        running, waiting = len(scheduler.active_requests), len(scheduler.waiting_requests)
        return running, waiting + self._manager.input_queue.qsize(), _cache_usage(processor.cache)

    def decode(self, tokens: Sequence[int]) -> str:
        """Token ids to text."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def chat_prompt(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> list[int]:
        """Apply the chat template.

        Raises:
            ApiError: There is none, or it refuses these messages.
        """
        if self.tokenizer.chat_template is None:
            text = "this model has no chat template: use /v1/completions, or start the server with --chat-template FILE"
            raise ApiError(400, text, "chat_template_missing", "messages")
        try:
            ids = self.tokenizer.apply_chat_template(
                [_plain_message(message) for message in messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **options,
            )
        except ApiError:
            raise
        except Exception as error:  # templates raise whatever they like, jinja's and their own
            raise ApiError(400, f"the chat template refuses these messages: {error}", "invalid_value") from error
        return [int(token) for token in ids]

    async def generate(
        self, request_id: str, prompt: list[int], limit: int, sampling: Sampling, *, ignore_end: bool
    ) -> AsyncGenerator[Step, None]:
        """Generate; leaving the iteration early takes the request out of the batch."""
        news: asyncio.Queue[Step] = asyncio.Queue()
        self._manager.register_result_handler(request_id, _into(news))
        added = self._manager.add_request(
            prompt,
            request_id=request_id,
            max_new_tokens=limit,
            streaming=True,
            eos_token_id=[-1] if ignore_end else None,
            sampling=sampling,
        )
        if added is None:
            raise ApiError(503, f"the engine has stopped: {self.failure}", "engine_dead")
        done = False
        try:
            while not done:
                step = await news.get()
                while not news.empty():  # the reader was slower than the batch: only the newest counts
                    step = news.get_nowait()
                done = step.done
                yield step
        finally:
            if not done:
                self._manager.cancel_request(request_id)
                self._manager.output_router.result_handlers.pop(request_id, None)

    def stop(self) -> None:
        """End the generation thread."""
        self._manager.stop(block=True, timeout=5, hard_stop=True)


@dataclass(frozen=True, slots=True)
class Stored:
    """A model on the disk, and how it is to be loaded. ``quantization`` is bnb-nf4 or bnb-int8, made while loading."""

    path: Path
    dtype: str
    quantization: str | None = None
    chat_template: str | None = None


def load(stored: Stored, limits: Limits, say: Callable[[str], None]) -> Batch:
    """Read the model into memory and start its batch."""
    began = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(stored.path, local_files_only=True)
    if stored.chat_template is not None:
        tokenizer.chat_template = stored.chat_template
    config = AutoConfig.from_pretrained(stored.path, local_files_only=True)
    say(f"Loading weights of {type(config).__name__} ({stored.quantization or stored.dtype})")
    more = {} if stored.quantization is None else {"quantization_config": bitsandbytes(stored.quantization)}
    model = AutoModelForCausalLM.from_pretrained(
        stored.path, config=config, dtype=stored.dtype, local_files_only=True, attn_implementation="sdpa", **more
    ).eval()
    say(f"Loading weights took {time.monotonic() - began:.2f} s ({model.dtype})")
    batch = Batch(model, tokenizer, limits)
    say(f"KV cache holds {limits.kv_tokens} tokens, at most {limits.sequences} requests in a batch")
    return batch


def bitsandbytes(method: str) -> Any:
    """How transformers is asked to quantise while it loads."""
    from transformers import BitsAndBytesConfig

    if method == "bnb-int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _into(news: asyncio.Queue[Step]) -> Callable[[Any], None]:
    def deliver(output: Any) -> None:
        news.put_nowait(Step(output.generated_tokens, output.is_finished(), output.error))

    return deliver


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ends of text as the model's generation settings name them, and the tokenizer's own."""
    named = model.generation_config.eos_token_id
    ends = set(named) if isinstance(named, list | tuple) else {named}
    return frozenset(token for token in (*ends, tokenizer.eos_token_id) if token is not None)


def _plain_message(message: dict[str, Any]) -> dict[str, Any]:
    """Content given as a list of text parts becomes one string, which is what text templates expect."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    if any(part.get("type") != "text" for part in content if isinstance(part, dict)):
        raise ApiError(400, "this engine takes text only", "unsupported_parameter", "messages")
    return {**message, "content": "".join(part["text"] for part in content)}


def _cache_usage(cache: Any) -> float:
    """Share of the pages in use; 0 when this release of the library does not tell."""
    try:
        total = int(cache.num_blocks)
        return 1 - int(cache.get_num_free_blocks()) / total if total else 0.0
    except (AttributeError, TypeError):
        return 0.0


def set_threads(threads: int) -> None:
    """Threads of one operation; operations do not run beside each other here."""
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
