"""The model card of an export: what it is, how to load it, what was measured. Only figures that were measured."""

from __future__ import annotations

from typing import Any

from unimodel.config import RunConfig


def model_card(
    config: RunConfig, source: dict[str, Any], rows: list[dict[str, Any]], ranges: dict[str, list[int]], num_parameters: int
) -> str:
    """README.md with the Hub's YAML header."""
    return "\n\n".join(
        [
            _header(),
            f"# {config.name}",
            f"One transformer ({num_parameters / 1e6:.1f} million parameters, {config.backbone.family}) that reads and writes text, "
            f"draws and describes pictures, and predicts the next frame of a world from an action. Trained with "
            f"[unimodel](https://github.com/unimodel/unimodel) through stage `{source['stage']}`, {source['step']} steps in all; "
            "the weights are the moving average of that stage.",
            _loading(),
            "## Tokens\n\nOne vocabulary; ids of each modality:\n\n" + _ranges(ranges),
            "## Training\n\n" + _training(config),
            "## Measured on held-out episodes\n\n" + _table(rows),
            f"## Limits\n\nTrained on `{config.data.recording.environment}` alone: captions, pictures and actions of other "
            "worlds mean nothing to it. Pictures must have "
            f"{config.data.recording.image_size}x{config.data.recording.image_size} pixels.",
        ]
    ) + "\n"


def _header() -> str:
    return "---\nlibrary_name: transformers\npipeline_tag: any-to-any\ntags:\n- world-model\n- multimodal\n- masked-diffusion\n- unimodel\n---"


def _loading() -> str:
    return (
        "## Load\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "model = AutoModelForCausalLM.from_pretrained(FOLDER)\ntokenizer = AutoTokenizer.from_pretrained(FOLDER)\n```\n\n"
        "Text works with plain `generate()`. Pictures and frames are filled in by masked diffusion: codes of "
        "`image_tokenizer.safetensors` in the image range, a bidirectional attention block per picture; "
        "`unimodel generate` does this."
    )


def _ranges(ranges: dict[str, list[int]]) -> str:
    lines = ["| modality | first id | ids |", "|---|---|---|"]
    lines += [f"| {name} | {start} | {stop - start} |" for name, (start, stop) in ranges.items() if stop > start]
    return "\n".join(lines)


def _training(config: RunConfig) -> str:
    lines = ["| stage | steps | rows x tokens | objectives |", "|---|---|---|---|"]
    for name, stage in config.ordered_stages:
        objectives = ", ".join(f"{key} ({value.kind})" for key, value in stage.objectives.items())
        lines.append(f"| {stage.number} {name} | {stage.steps} | {stage.batch.rows} x {stage.batch.row_tokens} | {objectives} |")
    recording = config.data.recording
    data = f"{recording.train_episodes} episodes of `{recording.environment}`, {recording.random_action_fraction:.0%} random actions, the rest by the scripted bot."
    return "\n".join(lines) + f"\n\nData: {data} Seed {config.seed}. The whole config is `unimodel_config.yaml`."


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "Not evaluated (`unimodel eval RUN` before the export puts the figures here)."
    lines = ["| metric | stage | model | baseline | better? | n |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['metric']} | {row['stage']} | {row['model']:.3f} {row['unit']} | {row['baseline']:.3f} ({row['baseline_name']}) "
        f"| {'yes' if row['better'] else 'no'} | {row['samples']} |"
        for row in rows
    ]
    return "\n".join(lines)
