"""YAML file -> `RunConfig`, or another settings model: `base:` files, `--set` overrides, and errors that name the key,
the value and the rule."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from unimodel.config import RunConfig

Model = TypeVar("Model", bound=BaseModel)
MERGE_TAG = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and reads `1e-4` as a number (YAML 1.1 reads a string)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE_TAG:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """Reads, merges, overrides and validates one run file.

    Raises ValueError (one line per mistake) for anything wrong in the file and FileNotFoundError for a missing one.
    """
    return load_settings(Path(path), overrides, RunConfig, "run config")


def load_settings(path: Path, overrides: list[str] | None, model: type[Model], what: str) -> Model:
    """`load_config` for any settings model; `what` is its name in errors."""
    values = _read_with_bases(path, ())
    for override in overrides or []:
        _apply_override(values, override)
    return _validate(values, str(path), model, what)


def validate(values: dict[str, Any], source: str) -> RunConfig:
    """Validates a plain dict as read from YAML or JSON; `source` names it in errors."""
    return _validate(values, source, RunConfig, "run config")


def _validate(values: dict[str, Any], source: str, model: type[Model], what: str) -> Model:
    try:
        return model.model_validate_json(json.dumps(values, default=_refuse))
    except ValidationError as error:
        details = error.errors()
        inner = [d for d in details if not any(d is not o and o["loc"][: len(d["loc"])] == d["loc"] for o in details)]
        lines = [_describe(detail, values, model) for detail in inner]
        raise ValueError(f"{source} is not a valid {what}:\n" + "\n".join(f"  - {line}" for line in lines)) from None


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML; `load_config` of it gives an equal config."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, allow_unicode=True, width=110)


def _refuse(value: Any) -> None:
    raise ValueError(f"{value!r} is a {type(value).__name__}, which no setting takes: put it in quotes to make it text")


def _read_with_bases(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in chain:
        raise ValueError(f"{path}: `base:` files include each other in a circle: {' -> '.join(p.name for p in chain)}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        origin = f" (named by `base:` in {chain[-1]})" if chain else ""
        raise FileNotFoundError(f"config file {path} does not exist{origin}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"config file {path} is not UTF-8 text (byte {error.start})") from None
    try:
        values = yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError as error:
        where = " ".join(str(error).split()).replace('"<unicode string>"', str(path))
        raise ValueError(f"{path} is not valid YAML: {where}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of keys to values, found {type(values).__name__}")
    bases = values.pop("base", [])
    if not isinstance(bases, str) and not (isinstance(bases, list) and all(isinstance(b, str) for b in bases)):
        raise ValueError(f"{path}: base must be a file name or a list of file names, found {bases!r}")
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = _merge(merged, _read_with_bases(path.parent / base, (*chain, resolved)))
    return _merge(merged, values)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        both_mappings = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_mappings else value
    return merged


def _apply_override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ValueError(f"--set {override}: write it as key.subkey=value")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError:
        raise ValueError(f"--set {override}: the value is not valid YAML") from None
    *parents, last = path.split(".")
    if not all((*parents, last)):
        raise ValueError(f"--set {override}: the key has an empty part between its dots")
    here = values
    for parent in parents:
        child = here.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ValueError(f"--set {override}: '{parent}' is not a group of keys (lists are replaced as a whole)")
        here = child
    here[last] = value


def _describe(detail: Any, values: dict[str, Any], model: type[BaseModel]) -> str:
    """One validation error as: dotted key, value, rule, nearest right key."""
    location = [str(part) for part in detail["loc"]]
    key = ".".join(_without_union_tags(location, values)) or "the file as a whole"
    if detail["type"] == "extra_forbidden":
        names = _fields_at(location[:-1], model)
        near = difflib.get_close_matches(location[-1], names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys here: {', '.join(names)}"
        return f"{key}: unknown key; {hint}"
    if detail["type"] == "missing":
        return f"{key}: required and missing"
    is_group = isinstance(detail["input"], dict | list)
    wants_scalar = detail["type"].endswith("_type") and is_group
    shown = " (got a group of keys)" if wants_scalar else "" if is_group else f" (got {detail['input']!r})"
    return f"{key}: {detail['msg'].removeprefix('Value error, ')}{shown}"


def _without_union_tags(location: list[str], values: Any) -> list[str]:
    """pydantic puts the tag of a discriminated union into the path; the user's file has no such level."""
    kept = []
    for index, part in enumerate(location):
        if isinstance(values, list) and part.isdigit() and int(part) < len(values):
            kept, values = [*kept, part], values[int(part)]
        elif isinstance(values, dict) and part in values:
            kept, values = [*kept, part], values[part]
        elif index == len(location) - 1:
            kept.append(part)
    return kept


def _fields_at(location: list[str], model: type[BaseModel]) -> list[str]:
    """Field names of the model at a pydantic error location."""
    schema = model.model_json_schema()
    here: Any = schema
    for part in location:
        here = _resolve(here, schema)
        if "properties" in here and part in here["properties"]:
            here = here["properties"][part]
        elif "discriminator" in here and part in here["discriminator"]["mapping"]:
            here = {"$ref": here["discriminator"]["mapping"][part]}
        elif isinstance(here.get("additionalProperties"), dict):
            here = here["additionalProperties"]
        elif "items" in here:
            here = here["items"]
        else:
            return []
    return list(_resolve(here, schema).get("properties", {}))


def _resolve(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node or "allOf" in node:
        node = node["allOf"][0] if "allOf" in node else schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def settings_of(model: BaseModel) -> dict[str, Any]:
    """A settings object as plain JSON values, for hashes and files."""
    return json.loads(model.model_dump_json())
