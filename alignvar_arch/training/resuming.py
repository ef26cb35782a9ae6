"""Finds the state that a run goes on from: the newest whole one, with the weights of its iteration beside it."""

import zipfile
from collections import Counter
from pathlib import Path

import torch

from alignvar_arch import checkpoints
from alignvar_arch.errors import UserError
from alignvar_arch.training import shards


def find(opt: dict) -> list[str]:
    """Finds the state that `--auto_resume` or `path.resume_state` asks for, and points `path` at its weights.

    `path.resume_state` and `path.resume_from` (epoch, iteration, seed) are set, or resume_state stays None where there
    is nothing to resume from. A network that the experiment never saves, a frozen one, keeps its own weights. What was
    found is a sentence in `path.resume_note`, for the run's log, which there is not yet.

    Args:
        opt: complete options; `path` is changed.

    Returns:
        Sentences about what was passed over; on rank 0, since all pass over the same.

    Raises:
        UserError: the state that is asked for is not whole, or none of several is.
    """
    path = opt["path"]
    if not opt["auto_resume"]:
        if path.get("resume_state"):
            use(opt, Path(path["resume_state"]))
        return []
    states = newest_first(path["training_states"])
    passed = []
    for state in states:
        try:
            use(opt, state)
        except UserError as error:
            passed.append(f"passed over: {error}")
            continue
        path["resume_note"] = "; ".join([f"resuming from {state}, the newest whole one", *passed])
        return passed if opt["rank"] == 0 else []
    if states:
        raise UserError(f"--auto_resume: none of the {len(states)} training states in {path['training_states']} is "
                        f"whole; the newest: {passed[0].removeprefix('passed over: ')}")
    if path.get("resume_state"):
        use(opt, Path(path["resume_state"]))
        return []
    path["resume_note"] = f"--auto_resume finds no training state in {path['training_states']}; the run starts afresh."
    return []


def newest_first(folder: str) -> list[Path]:
    """Returns the training states of a folder by their iterations, the latest first."""
    states = [path for path in Path(folder).glob("*.state") if path.stem.isdigit()]
    return sorted(states, key=lambda path: int(path.stem), reverse=True)


def read(path: str | Path, mapped: bool = False) -> dict:
    """Reads a training state onto the CPU; nothing in it is executed.

    Args:
        path: the file.
        mapped: leave the tensors in the file until they are used.

    Raises:
        UserError: it is truncated, or no training state.
    """
    try:
        with torch.serialization.safe_globals([Counter]):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        if not (isinstance(state["iter"], int) and isinstance(state["epoch"], int) and state["optimizers"]
                and all("param_groups" in optimizer for optimizer in state["optimizers"]) and state["schedulers"]):
            raise ValueError("parts are missing")
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors here, by what the file holds
        raise UserError(f"{path} is not a training state, or a truncated one; "
                        "remove it to resume from the one before.") from error
    return state


def damage(file: Path) -> str | None:
    """What is wrong with a file of torch's by its sums, at which torch does not look; None where it is whole."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return str(error)
    return f"{damaged} in it is damaged" if damaged else None


def use(opt: dict, file: Path) -> dict:
    """Points `opt["path"]` at a state and its weights, as `find` does; returns the state, its tensors mapped.

    Raises:
        UserError: the state or weights of its iteration are not whole.
    """
    state = read(file, mapped=True)
    weights = _weights(opt, file, state["iter"])
    if state.get("shards"):
        shards.check(shards.beside(file))
    for saved in weights.values():
        checkpoints.read(str(saved))
    for part in (file, *weights.values()):
        found = damage(part)
        if found:
            raise UserError(f"{part} is not whole ({found}); remove it to resume from the one before.")
    for key, saved in weights.items():
        opt["path"][f"pretrain_{key}"] = str(saved)
        label = f"param_key_{key.removeprefix('network_')}"
        if opt["path"].get(label) == "params_ema":
            opt["path"][label] = "params"
    opt["path"]["resume_state"] = str(file)
    opt["path"]["resume_from"] = {"epoch": state["epoch"], "iter": state["iter"], "seed": state.get("seed")}
    return state


def _weights(opt: dict, file: Path, iteration: int) -> dict[str, Path]:
    """The saved weights of each network, from the experiment that the state belongs to."""
    own = file.absolute().parent.parent / "models"
    models = own if own.is_dir() else Path(opt["path"]["models"])
    found = {}
    for key in [key for key in opt if key.startswith("network_")]:
        label = key.removeprefix("network_")
        saved = models / f"net_{label}_{iteration}.pth"
        if key in (opt["path"].get("ignore_resume_networks") or []):
            continue
        if saved.is_file():
            found[key] = saved
        elif opt["path"].get(f"pretrain_{key}") is None or any(models.glob(f"net_{label}_*.pth")):
            raise UserError(f"cannot resume at iteration {iteration}: {saved} is missing.")
    return found
