"""`basicsr test`: BasicSR's test pipeline on the current folder; unreadable images are named and passed over."""

import functools
import sys
from collections.abc import Iterator

import basicsr.test

from alignvar_arch import options
from alignvar_arch.cli.pipeline import close_logger, current_folder
from alignvar_arch.cli.plugins import Plugin
from alignvar_arch.errors import UserError
from alignvar_arch.options.datasets import Builder
from alignvar_arch.training import distributed


class _NothingReadable(Exception):
    """A test set without one readable image: BasicSR's validation has nothing to average."""


class SkippingLoader:
    """A test loader that names each unreadable image on stderr and goes on with the next.

    Attributes:
        dataset: the loader's dataset.
        done: images given so far.
        failed: images passed over so far.
    """

    def __init__(self, loader):
        self.loader = loader
        self.dataset = loader.dataset
        self.done = 0
        self.failed = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        batches = iter(self.loader)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                break
            except UserError as error:
                self.failed += 1
                print(f"basicsr: {error}", file=sys.stderr)
                continue
            self.done += 1
            yield batch
        if not self.done:
            raise _NothingReadable


def run(argv: list[str], _plugins: list[Plugin]) -> int:
    """Tests; returns 0, or 1 if some images could not be read.

    Raises:
        UserError: if no image at all could be read.
    """
    loaders: list[SkippingLoader] = []
    build_dataloader, build_model = basicsr.test.build_dataloader, basicsr.test.build_model

    def build_skipping(*arguments, **named):
        loaders.append(SkippingLoader(build_dataloader(*arguments, **named)))
        return loaders[-1]

    def build_tolerant(opt):
        model = build_model(opt)
        model.validation = _tolerant(model.validation)
        return model

    basicsr.test.build_dataloader, basicsr.test.build_model = build_skipping, build_tolerant
    try:
        _run_pipeline(argv)
    finally:
        basicsr.test.build_dataloader, basicsr.test.build_model = build_dataloader, build_model
    failed, done = sum(loader.failed for loader in loaders), sum(loader.done for loader in loaders)
    if failed and not done:
        raise UserError(f"none of the {failed} images could be read.")
    if failed:
        print(f"basicsr: {failed} of {failed + done} images could not be read; the others are done.", file=sys.stderr)
    return 1 if failed else 0


def _run_pipeline(argv: list[str]) -> None:
    """Runs BasicSR's pipeline with our options in place of its parser."""
    root = current_folder()
    parsed = options.parse_options(root, False, argv, "basicsr test")
    with distributed.in_turn(parsed[1].opt, parsed[0]["dist"]):
        build_dataset = Builder(parsed[0])
    close_logger()  # it has no file yet
    options.join(*parsed)  # seeds too: the builder has drawn a crop
    originals = basicsr.test.parse_options, basicsr.test.build_dataset
    basicsr.test.parse_options, basicsr.test.build_dataset = lambda root_path, is_train=True: parsed, build_dataset
    try:
        basicsr.test.test_pipeline(root)
        distributed.stop()
    finally:
        basicsr.test.parse_options, basicsr.test.build_dataset = originals
        close_logger()


def _tolerant(validation):
    @functools.wraps(validation)
    def wrapper(*arguments, **named):
        try:
            validation(*arguments, **named)
        except _NothingReadable:
            return  # counted by the loader; the next test set may be readable

    return wrapper
