"""LangChain's standard tests of a chat model against a running gateway; ``test_langchain.py`` runs this file.

Chat Completions and Responses, each over every upstream dialect. What a test would fetch from the internet (a picture, a
page, a sound) is made here instead.
"""

import base64
import os
from types import SimpleNamespace

import pytest
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests, chat_models

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def no_internet(monkeypatch):
    monkeypatch.setattr(chat_models.httpx, "get", lambda *_, **__: SimpleNamespace(content=PIXEL))


class Standard(ChatModelIntegrationTests):
    dialect = "openai"
    responses = False

    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {
            "model": f"langchain-{self.dialect}",
            "base_url": os.environ["LLMOPS_TEST_URL"] + "/v1",
            "api_key": os.environ["LLMOPS_TEST_KEY"],
            "max_retries": 0,
            "stream_usage": True,
            "use_responses_api": self.responses,
        }

    @property
    def model_override_value(self):
        return f"{self.dialect}-other"

    supports_image_inputs = True
    supports_image_urls = True
    supports_pdf_inputs = True
    supports_anthropic_inputs = True

    @property
    def supports_image_tool_message(self):
        return not self.responses

    @property
    def supports_json_mode(self):
        return self.dialect != "anthropic"  # it has no such mode, and the gateway says so instead of pretending

    @property
    def supported_usage_metadata_details(self):
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream=False):
        model = ChatOpenAI(**self.chat_model_params)
        if not stream:
            return model.invoke("hi")
        whole = None
        for chunk in model.stream("hi"):
            whole = chunk if whole is None else whole + chunk
        return whole


class TestChatOverOpenAI(Standard):
    pass


class TestChatOverAnthropic(Standard):
    dialect = "anthropic"


class TestChatOverGemini(Standard):
    dialect = "gemini"


class TestResponsesOverOpenAI(Standard):
    responses = True


class TestResponsesOverAnthropic(Standard):
    dialect, responses = "anthropic", True


class TestResponsesOverGemini(Standard):
    dialect, responses = "gemini", True
