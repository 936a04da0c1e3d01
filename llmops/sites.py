"""The part of a site's file that the gateway reads. Pure.

A site (``configs/hybrid.yaml``) says which machines there are, which models run on them, and in ``gateway.config`` what
stands before them. ``llmops deploy`` renders it, ``llmops plan -c`` plans it, and the gateway serves it: each local model
becomes a provider and a route.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from llmops.recipes import Key, Yaml

ENGINE_PORT: Final = 8000
ADDRESS: Final = "http://{name}:{port}/v1"


def is_site(document: Yaml) -> bool:
    """Whether a file describes a site."""
    return isinstance(document.data, dict) and "site" in document.data


def object_name(model: str) -> str:
    """A model's name where only letters, digits and dashes may stand (RFC 1035), as in a Service or a host name."""
    plain = model.replace(".", "-")
    return plain if plain[:1].isalpha() else f"m-{plain}"


def with_models(
    config: Mapping[str, Any], models: Iterable[tuple[str, Iterable[str]]], address: str = ADDRESS
) -> dict[str, Any]:
    """A gateway's config with a provider and a route for each local model that it does not route itself.

    Args:
        config: As the site writes it.
        models: Name and further names of each.
        address: Form of an engine's base URL, with ``{name}`` and ``{port}``.
    """
    made = {key: _plain(value) for key, value in config.items()}
    providers = dict(made.get("providers") or {})
    routes = list(made.get("routes") or [])
    for name, aliases in models:
        url = address.format(name=object_name(name), port=ENGINE_PORT)
        providers.setdefault(name, {"base_url": url, "local": True})
        if not any(isinstance(route, Mapping) and route.get("match") == name for route in routes):
            target = {"provider": name, "model": name}
            routes.append({"match": name, "alias": list(aliases), "targets": [target]})
    return {**made, "providers": providers, "routes": routes}


def gateway_document(document: Yaml) -> Yaml:
    """A site as the gateway's own file, whose lines are still those of the site; any other file as it is.

    Raises:
        UsageError: The site has no gateway.
    """
    if not is_site(document):
        return document
    gateway, models = document.data.get("gateway"), document.data.get("models")
    if not isinstance(gateway, dict) or not isinstance(gateway.get("config", {}), dict) or not isinstance(models, dict):
        raise document.error(("gateway",), "this site describes no gateway", "write gateway: {config: {…}} and models")
    named = [(name, _aliases(form)) for name, form in models.items()]
    data = with_models(gateway.get("config") or {}, named, str(gateway.get("address") or ADDRESS))
    return Yaml(document.file, data, _lines(document, data, list(models)))


def _aliases(form: Any) -> list[str]:
    found = form.get("alias") if isinstance(form, dict) else None
    return [str(each) for each in found] if isinstance(found, list) else []


def _lines(document: Yaml, data: Mapping[str, Any], models: list[str]) -> dict[Key, int]:
    """Where each key of the gateway's part stands in the site; what was made of a model stands where the model does."""
    below = ("gateway", "config")
    lines: dict[Key, int] = {(): document.line(below)}
    lines |= {key[2:]: line for key, line in document.lines.items() if key[:2] == below and len(key) > 2}
    for name in models:
        lines.setdefault(("providers", name), document.line(("models", name)))
    for index, route in enumerate(data["routes"]):
        if isinstance(route, Mapping):
            lines.setdefault(("routes", index), document.line(("models", str(route.get("match")))))
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
