"""`moderation train`: fit the adapter and the head, calibrate, and write a model directory.

Runs on a CPU, on a GPU, or on several machines under `torchrun` or `accelerate launch` without a change. A checkpoint is written as it
goes; the same command after a `kill -9` continues from it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import platform
import random
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from moderation import text as encoding
from moderation.model import Encoder, Moderator, load_encoder, read_manifest
from moderation.network import Head
from moderation.policy import DEFAULT
from moderation.schema import LABELS, UserError
from training import calibrate
from training.batches import Batch, mixed, nearest_groups, plan
from training.examples import Example, group
from training.head import Vectors, Views, fit_head
from training.pages import Page, Pages, contrast
from training.recipe import Material, Recipe, recipe_of, sources_of, texts


def fit(
    recipe: Recipe,
    material: Material,
    out: Path,
    report: Callable[[str, int, int, float], None] = lambda stage, step, steps, loss: None,
    start: Path | None = None,
) -> Moderator | None:
    """Train, calibrate and write a model directory at `out`; returns the loaded model.

    Of several processes that train together the first writes and the others return None.

    Args:
        report: called after each step with the stage's name, the step, the number of steps and the loss.
        start: a model directory of the same recipe whose adapter and head are trained on, instead of beginning anew.

    A folder `out` + ".training" holds the checkpoint, and the runs of a soup, while it runs and is removed at the end.
    """
    try:
        if not recipe.soup or start is not None:
            return _run(replace(recipe, soup=()), material, out, report, start)
        return _soup(recipe, material, out, report)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _soup(recipe: Recipe, material: Material, out: Path, report: Callable[[str, int, int, float], None]) -> Moderator | None:
    """A run for each weight of the pages, and the mean of them."""
    if not recipe.rank:
        raise UserError("soup: the mean is of trained encoders, and with rank = 0 none is trained; expected a rank above 0")
    kept = out.with_name(out.name + ".training")
    runs = []
    for number, weight in enumerate(recipe.soup, 1):
        run = replace(recipe, pages=weight, near_weight=1.0, soup=())  # what weighs at the end does so on the mean
        folder = kept / f"run-{number}"
        runs.append(folder)
        if not _finished(folder, run, material):
            _run(run, material, folder, lambda stage, *step, number=number: report(f"run {number}: {stage}", *step))
    if int(os.environ.get("RANK", "0")):
        return None
    moderator = _stirred(recipe, material, out, runs, report)
    shutil.rmtree(kept)
    return moderator


def _finished(folder: Path, run: Recipe, material: Material) -> bool:
    """Whether a run of a soup lies whole in `folder`, of the same recipe and data."""
    try:
        manifest = read_manifest(folder)
    except UserError:
        return False
    return recipe_of(manifest) == run and manifest["sources"] == sources_of(material, run)


def _stirred(
    recipe: Recipe,
    material: Material,
    out: Path,
    runs: Sequence[Path],
    report: Callable[[str, int, int, float], None],
) -> Moderator:
    """The mean of what the runs learned: encoder and head, with the part of relevance fitted anew on the mean encoder."""
    tokenizer, transformer = load_encoder(recipe.encoder, attention="eager")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    models = [Moderator.from_pretrained(run, device="cpu", runtime="torch") for run in runs]
    transformer.load_state_dict(_mean([model.encoder.transformer.state_dict() for model in models]))
    head = models[0].head
    head.load_state_dict(_mean([model.head.state_dict() for model in models]))
    transformer = _cut(transformer, recipe).to(device)
    _fit_relevance(recipe, material, Encoder(tokenizer, transformer), head, report)
    with_losses = [list(csv.DictReader((run / "loss.csv").open())) for run in runs]
    losses = [sum(float(row["loss"]) for row in rows) / len(rows) for rows in zip(*with_losses, strict=True)]
    trained = [model.manifest["training"] for model in models]
    taught = {
        "processes": max(run["processes"] for run in trained),
        "batches": sum(run["batches"] for run in trained),
        "mean_of": [model.version for model in models],
    }
    write_model(out, recipe, transformer, head.eval(), tokenizer, material, losses, taught)
    return Moderator.from_pretrained(out, runtime="torch")


def _mean(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        name: torch.stack([state[name].float() for state in states]).mean(0).to(value.dtype)
        for name, value in states[0].items()
    }


def _run(
    recipe: Recipe,
    material: Material,
    out: Path,
    report: Callable[[str, int, int, float], None],
    start: Path | None = None,
) -> Moderator | None:
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.utils import set_seed
    from safetensors.torch import load_file

    # Between processes, gradients are awaited of every parameter that trains, and the encoder's own pooling takes no part.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Unless told that it is the processor that trains, processes without a GPU would train each for itself.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=[ddp])
    set_seed(recipe.seed)
    tokenizer, transformer = load_encoder(recipe.encoder, attention="eager")
    encoder = Encoder(tokenizer, transformer.to(accelerator.device))
    groups = group(material.train, recipe.group_size, recipe.seed)
    neighbours = nearest_groups(groups, encoder)
    head = Head(encoder.width, len(encoding.SURFACE), len(tokenizer), recipe.hidden, recipe.dropout)
    checkpoint = out.with_name(out.name + ".training")
    identity = _identity(recipe, material, accelerator.num_processes)
    checkpointed = _checkpointed(checkpoint, identity)
    if start is not None:
        head.load_state_dict(load_file(start / "head.safetensors"))
    elif checkpointed is None:
        _fit_head(recipe, material.train, encoder, head, report)
    network = _Network(_adapt(encoder, recipe, start), head, recipe)
    pages = Pages(material.pages)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in network.transformer.parameters() if p.requires_grad], "lr": recipe.learning_rate},
            {"params": list(head.parameters()), "lr": recipe.head_rate},
        ],
        weight_decay=0.01,
    )
    epochs = [plan(groups, neighbours, recipe.mix, recipe.seed * 1000 + epoch) for epoch in range(recipe.epochs)]
    steps = [(epoch, batch) for epoch, batches in enumerate(epochs) for batch in batches]
    # Every process takes its own share of each epoch's batches; gradients are averaged between them.
    mine = steps[accelerator.process_index : len(steps) - len(steps) % accelerator.num_processes : accelerator.num_processes]
    warm = max(1, int(recipe.warmup * len(mine)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, len(mine)))))),
    )
    network, optimizer = accelerator.prepare(network, optimizer)
    accelerator.register_for_checkpointing(schedule)
    done, losses = 0, []
    if checkpointed is not None:
        accelerator.load_state(str(checkpoint / checkpointed["folder"]))
        done, losses = checkpointed["step"], checkpointed["losses"]
    head.train()  # the encoder stays in evaluation mode: its dropout costs 40 % of a step on a CPU, the head's is enough
    for number in range(done, len(mine)):
        shuffler = random.Random(f"{recipe.seed}/{accelerator.process_index}/{number}")
        torch.manual_seed(recipe.seed * 100_003 + number)
        examples = mixed([groups[index] for index in mine[number][1]], recipe.mix, shuffler)
        batch = Batch(examples, encoder, recipe.mix, shuffler)
        drawn = pages.draw(shuffler) if recipe.pages and number % recipe.pages_every == 0 else []
        with torch.autocast(accelerator.device.type, dtype=torch.bfloat16):
            loss = network(batch, drawn, encoder)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(accelerator.reduce(loss.detach(), "mean")))
        report("training", number + 1, len(mine), losses[-1])
        if (number + 1) % 100 == 0 and number + 1 < len(mine):
            _save_checkpoint(accelerator, checkpoint, identity, number + 1, losses)
    trained = accelerator.unwrap_model(network)
    batches = int(accelerator.reduce(torch.tensor(len(losses), device=accelerator.device)))  # of all processes
    if accelerator.is_main_process:
        if recipe.rank and recipe.full:
            trained.transformer = _cut(trained.transformer, recipe).to(accelerator.device)
        if recipe.epochs and start is None:
            # Relevance is judged better by a part fitted anew on the adapted encoder, spam and effort by those trained along.
            _fit_relevance(recipe, material, Encoder(tokenizer, trained.transformer.eval()), trained.head, report)
        taught = {"processes": accelerator.num_processes, "batches": batches}
        write_model(out, recipe, trained.transformer.eval(), trained.head.eval(), tokenizer, material, losses, taught)
        shutil.rmtree(checkpoint, ignore_errors=True)
    accelerator.wait_for_everyone()
    return Moderator.from_pretrained(out, runtime="torch") if accelerator.is_main_process else None


def _fit_head(
    recipe: Recipe, examples: list[Example], encoder: Encoder, head: Head, report: Callable[[str, int, int, float], None]
) -> None:
    vectors = Vectors(examples, encoder)
    head.cpu().informativeness.copy_(vectors.informativeness(len(head.informativeness)))
    mix = recipe.mix
    views = Views(head, vectors, examples, recipe.head_epochs, recipe.moved_weight, mix.title_only, mix.strangers, recipe.seed)
    fit_head(head, views, recipe.head_epochs, recipe.fit_rate, recipe.seed, lambda *step: report("fitting the head", *step))
    head.to(encoder.device)


def _fit_relevance(
    recipe: Recipe, material: Material, encoder: Encoder, head: Head, report: Callable[[str, int, int, float], None]
) -> None:
    head.forget_relevance()
    head.requires_grad_(False)
    for parameter in head.relevance():
        parameter.requires_grad_(True)
    weighed = [
        replace(example, weight=example.weight * recipe.near_weight) if example.near else example for example in material.train
    ]
    _fit_head(recipe, weighed, encoder, head, report)


class _Network(torch.nn.Module):
    """Encoder and head under one `forward`, as data-parallel training needs it."""

    def __init__(self, transformer: torch.nn.Module, head: Head, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.transformer = transformer
        self.head = head

    def forward(self, batch: Batch, drawn: Sequence[tuple[Page, str]], encoder: Encoder) -> torch.Tensor:
        encoder = Encoder(encoder.tokenizer, self.transformer)
        loss = batch.loss(encoder, self.head, self.recipe.contrast)
        return loss + self.recipe.pages * contrast(encoder, drawn) if drawn else loss


def _adapt(encoder: Encoder, recipe: Recipe, start: Path | None) -> torch.nn.Module:
    if not recipe.rank:
        return encoder.transformer.requires_grad_(False)
    from peft import PeftModel, get_peft_model

    if recipe.full:
        whole = encoder.transformer
        if start is not None:
            whole = PeftModel.from_pretrained(whole, str(start / "adapter")).merge_and_unload()
        whole.requires_grad_(False)
        for module in whole.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.requires_grad_(True)
        return whole
    # The frozen weights are kept as the matrix units take them; autocast would convert them anew in every pass.
    frozen = encoder.transformer.to(torch.bfloat16)
    if start is not None:
        return PeftModel.from_pretrained(frozen, str(start / "adapter"), is_trainable=True)
    return get_peft_model(frozen, _lora(recipe))


def _lora(recipe: Recipe):
    from peft import LoraConfig

    return LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, target_modules="all-linear", bias="none")


def _cut(transformer: torch.nn.Module, recipe: Recipe) -> torch.nn.Module:
    """The encoder with the adapter that comes nearest to how its matrices changed: their truncated SVD (Eckart & Young 1936)."""
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    changed = {name: value.detach().float().cpu() for name, value in transformer.state_dict().items()}
    adapted = get_peft_model(load_encoder(recipe.encoder, attention="eager")[1], _lora(recipe))
    for name, layer in adapted.base_model.model.named_modules():
        if isinstance(layer, LoraLayer):
            change = changed[f"{name}.weight"] - layer.get_base_layer().weight
            left, size, right = torch.linalg.svd(change.detach(), full_matrices=False)
            root = size[: recipe.rank].sqrt()
            with torch.no_grad():
                for (part,), value in (
                    (layer.lora_A.values(), root[:, None] * right[: recipe.rank]),
                    (layer.lora_B.values(), left[:, : recipe.rank] * root),
                ):
                    part.weight.zero_()
                    part.weight[: value.shape[0], : value.shape[1]] = value  # a narrow matrix has a lower rank
    return adapted.eval()


def _identity(recipe: Recipe, material: Material, processes: int) -> str:
    return hashlib.sha256(json.dumps([asdict(recipe), material.sources, processes], sort_keys=True).encode()).hexdigest()


def _save_checkpoint(accelerator, folder: Path, identity: str, step: int, losses: list[float]) -> None:
    # Two folders take turns and the pointer moves last, so a kill at any moment leaves a whole checkpoint.
    target = folder / f"step-{step % 200}"
    accelerator.save_state(str(target))
    if accelerator.is_main_process:
        pointer = {"identity": identity, "step": step, "folder": target.name, "losses": losses}
        (folder / "latest.tmp").write_text(json.dumps(pointer))
        (folder / "latest.tmp").replace(folder / "latest.json")


def _checkpointed(folder: Path, identity: str) -> dict | None:
    """What the last whole checkpoint says, if the same recipe, data and number of processes wrote it."""
    try:
        pointer = json.loads((folder / "latest.json").read_text())
    except (OSError, ValueError):
        return None
    if pointer["identity"] != identity:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return pointer


def write_model(
    out: Path,
    recipe: Recipe,
    transformer,
    head: Head,
    tokenizer,
    material: Material,
    losses: Sequence[float],
    training: Mapping[str, object] | None = None,
) -> None:
    """Write the model directory: adapter, head, loss curve, and a manifest with calibration, sources and checksums.

    Args:
        losses: of each step, the mean over the processes. training: how it was trained: `processes`, their `batches` in all, and the
            versions that it is the `mean_of`.
    """
    from safetensors.torch import save_file

    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    if recipe.rank:
        transformer.half().save_pretrained(out / "adapter", safe_serialization=True)
        transformer.float()
        (out / "adapter" / "README.md").unlink(missing_ok=True)
        settings = json.loads((out / "adapter" / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = recipe.encoder  # not the path on the machine that trained it
        (out / "adapter" / "adapter_config.json").write_text(json.dumps(settings, indent=1, sort_keys=True))
    save_file({name: tensor.half().contiguous().cpu() for name, tensor in head.state_dict().items()}, out / "head.safetensors")
    with (out / "loss.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows([("step", "loss"), *((step + 1, round(loss, 4)) for step, loss in enumerate(losses))])
    if losses:
        _plot(losses, out / "loss.png")
    trained_on = sorted({fingerprint(text) for text in texts(material, recipe)})
    (out / "trained_on.txt").write_text("\n".join(trained_on) + "\n")
    manifest = {
        "version": "",
        "encoder": recipe.encoder,
        "encoding": encoding.ENCODING,
        "labels": list(LABELS),
        "languages": ["en"],
        "head": {"vocabulary": len(head.informativeness), "hidden": recipe.hidden, "dropout": recipe.dropout},
        "calibration": {"scale": [1.0] * len(LABELS), "bias": [0.0] * len(LABELS)},
        "thresholds": DEFAULT.to_table(),
        "recipe": asdict(recipe),
        "training": dict(training or {}),
        "sources": sources_of(material, recipe),
        "software": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}
        | {"python": platform.python_version()},
        "commit": _commit(),
        "files": {},
    }
    seal(out, manifest)
    uncalibrated = Moderator.from_pretrained(out, runtime="torch")
    if material.held_out:
        probabilities = uncalibrated.predict_proba([comment for comment, _ in material.held_out])
        truth = np.array([LABELS.index(label) for _, label in material.held_out])
        manifest["calibration"] = calibrate.vector_scaling(np.log(np.clip(probabilities, 1e-9, 1)), truth)
    seal(out, manifest)


def _plot(losses: Sequence[float], path: Path) -> None:
    """The loss of every step and its running mean over fifty, as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, linewidth=0.5, alpha=0.4)
    if len(losses) >= 50:
        axes.plot(steps[49:], np.convolve(losses, np.ones(50) / 50, mode="valid"), linewidth=1.5)
    axes.set(xlabel="step", ylabel="loss", title="Training loss, each step and mean of fifty")
    figure.savefig(path, dpi=110)


def fingerprint(text: str) -> str:
    """Twelve hex digits that recognise a training comment without giving its text away."""
    return hashlib.sha256(text.strip().lower().encode("utf-8", "replace")).hexdigest()[:12]


def seal(folder: Path, manifest: dict) -> None:
    """Checksum every file and name the version after them."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".safetensors", ".json") and path.name != "manifest.json"
    )
    manifest["files"] = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    manifest["version"] = ""
    digest = hashlib.sha256(json.dumps([manifest["files"], manifest["calibration"]], sort_keys=True).encode()).hexdigest()
    manifest["version"] = f"thread-{digest[:10]}"
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _commit() -> str:
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


__all__ = ["fingerprint", "fit", "seal", "write_model"]
