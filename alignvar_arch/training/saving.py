"""Checkpoints on disk: whole or not there, read back before an older one goes, the newest few and the best kept."""

from pathlib import Path

from basicsr.utils.dist_util import get_dist_info, master_only

from alignvar_arch import checkpoints
from alignvar_arch.errors import UserError
from alignvar_arch.training import resuming, shards


class Checkpoints:
    """The checkpoints of one experiment: `models/net_*_ITER.pth` with `training_states/ITER.state`.

    Every rank keeps count; the first one alone touches files.

    The state is written last, so that a checkpoint with a state is complete. Only what this run, or the ones that it
    goes on from, has written is ever removed.

    Args:
        path: the options' block, with `models` and `training_states`.
        keep: how many checkpoints stay, or None for all.
        saved: iterations whose checkpoints are there already and may go in their time.
    """

    def __init__(self, path: dict, keep: int | None, saved: list[int]):
        self.models, self.states = Path(path["models"]), Path(path["training_states"])
        self.keep, self.saved = keep, saved

    def state(self, iteration: int) -> Path:
        """The path of an iteration's training state."""
        return self.states / f"{iteration}.state"

    def shards(self, iteration: int) -> Path:
        """The folder of an iteration's optimiser, where it is shared among processes."""
        return shards.beside(self.state(iteration))

    @master_only
    def sweep(self) -> None:
        """Removes the unfinished files of a run that was killed while it saved."""
        for folder in (self.models, self.states):
            for file in (*folder.glob(".net_*.pth.*"), *folder.glob(".*.state.*")):
                file.unlink()
        for folder in self.states.glob(".*.shards.part"):
            shards.remove(folder)

    def set_aside(self, iteration: int) -> None:
        """Renames states later than `iteration`, from which a run has gone another way: they are no longer the newest.

        They become `ITER.state.aside`; nothing is removed.
        """
        self.saved = [entry for entry in self.saved if entry <= iteration]
        for file in resuming.newest_first(self.states) if _is_first() else []:
            if int(file.stem) > iteration:
                file.rename(file.with_name(f"{file.name}.aside"))
                folder = shards.beside(file)
                if folder.is_dir():
                    shards.remove(folder.with_name(f"{folder.name}.aside"))
                    folder.rename(folder.with_name(f"{folder.name}.aside"))

    def write_state(self, iteration: int, content: dict, best: int | None = None) -> None:
        """Writes the state of an iteration whose weights are written, and removes what is no longer to be kept.

        The newest `keep` stay, and the checkpoint of iteration `best`; all do where the last step was skipped.

        Raises:
            UserError: it cannot be written or does not read back; older checkpoints are all there.
        """
        self.saved = [*(entry for entry in self.saved if entry != iteration), iteration]
        if _is_first():
            checkpoints.write_pth(str(self.state(iteration)), {**content, "saved": self.saved})
            for file in self._files(iteration):
                damage = resuming.damage(file)
                if damage:
                    raise UserError(f"{file} does not read back ({damage}); look after the disk. Older checkpoints are "
                                    "kept.")
        if not any(content.get("skipped", [])):  # else the one before is what the run would go back to
            self.tidy(best)

    def tidy(self, best: int | None = None) -> None:
        """Removes what is no longer to be kept, also what a run that was killed has left of it."""
        gone = [old for old in self.saved[:-self.keep] if old != best] if self.keep else []
        for old in gone if _is_first() else []:
            for file in self._files(old):
                file.unlink(missing_ok=True)
            shards.remove(self.shards(old))
        self.saved = [entry for entry in self.saved if entry not in gone]

    def _files(self, iteration: int) -> list[Path]:
        """The state first: without it, what is left of a checkpoint is not taken for one."""
        return [self.state(iteration), *sorted(self.models.glob(f"net_*_{iteration}.pth"))]


def _is_first() -> bool:
    return get_dist_info()[0] == 0
