"""What both AlignVAR models add to SRModel: the step, EMA with buffers, checkpoints with metadata, any size."""
import contextlib
import functools
import json
import os
from collections import OrderedDict

import torch
from basicsr.archs import build_network
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from torch import nn

from alignvar_arch import checkpoints
from alignvar_arch.models import degradation, sharding
from alignvar_arch.models.compiling import can_compile
from alignvar_arch.models.optimisers import decay_groups
from alignvar_arch.models.scale_log import ScaleLog
from alignvar_arch.models.stepping import Stepper
from alignvar_arch.training import rng


class TokenModel(SRModel):
    """An SRModel whose network sees square pictures of one size; validation tiles whatever it is given.

    Options read from ``train``: ``precision`` (``fp32``, ``bf16`` or ``fp16``; losses, the choice of tokens, optimiser
    and averages stay fp32; default fp32), ``accumulate`` (micro-batches that a batch is taken apart into, to save
    memory; default 1), ``grad_clip`` (largest gradient norm, default none), ``ema_decay`` (default 0, no average),
    ``ema_offload`` (the average in main memory; default false), ``compile`` (torch.compile, where it works; default
    false), ``parallel`` (what several processes do: ``ddp``, each has everything, or ``fsdp``, each keeps its share of
    parameters, optimiser and average; default ddp).
    From ``val``: ``tile_overlap`` (LR pixels, default a quarter of a tile), ``tile_batch`` (tiles at once,
    default 8) and ``decode_tile`` (side of the tiles of decoding, latent pixels, default none: the picture at once).
    """

    scale_log: ScaleLog
    shares_validation = True  # every process validates its share of the images
    whole_net: nn.Module | None = None
    _skipped: torch.Tensor | int = 0
    stepper: Stepper

    @property
    def is_sharded(self) -> bool:
        """Whether each process keeps its share of the network only."""
        return self.opt["is_train"] and self.opt["train"].get("parallel", "ddp") == "fsdp"

    def model_to_device(self, net):
        # Sharded once the weights are loaded and the average is made.
        return sharding.agree(net.to(self.device)) if self.is_sharded else super().model_to_device(net)

    def init_training_settings(self):
        train_opt, load_path = self.opt["train"], self.opt["path"].get("pretrain_network_g")
        self.net_g.train()
        self.ema_decay = train_opt.get("ema_decay", 0)
        # Resuming loads weights too; unless its state says otherwise, its average is as old as its iteration.
        self.iteration = 0
        self.from_scratch = load_path is None or bool(self.opt["path"].get("resume_state"))
        if self.ema_decay > 0:
            get_root_logger().info(f"Use Exponential Moving Average with decay: {self.ema_decay}")
            where = "cpu" if train_opt.get("ema_offload", False) else self.device
            self.net_g_ema = build_network(self.opt["network_g"]).to(where).eval().requires_grad_(False)
            self.model_ema(0)  # also what the file lacks, and starts fresh, starts as it does there
            if load_path is not None and "params_ema" in checkpoints.read(load_path)[0]:
                self.load_network(self.net_g_ema, load_path, self.opt["path"].get("strict_load_g", True), "params_ema")
        if self.is_sharded:
            self._shard()
        if train_opt.get("compile", False) and can_compile(self.device):
            for part in self.compiled_parts():
                part.compile(dynamic=False)
        if degradation.gives_kernels(self.opt["datasets"]["train"]):
            self.degradation = degradation.Degradation(self.opt, self.device)
        self.build_losses()
        self.setup_optimizers()
        self.setup_schedulers()
        self.stepper = Stepper(self.net_g, self.optimizer_g, self.device, parts=train_opt.get("accumulate", 1),
                               precision=train_opt.get("precision", "fp32"), clip=train_opt.get("grad_clip"))

    def _shard(self) -> None:
        """Keep this process's share of the network and of its average only."""
        self.make_whole = functools.partial(sharding.filled, sharding.outline(self.net_g))
        if self.ema_decay > 0:
            sharding.spread(self.net_g_ema, self.device, next(self.net_g_ema.parameters()).device)
        sharding.shard(self.net_g, self.sharded_parts(), self.device)

    def sharded_parts(self) -> list[nn.Module]:
        """Return the parts of the network that are gathered one after another, in their order; inner ones first."""
        return []

    def compiled_parts(self) -> list[nn.Module]:
        """Return the parts of the network that ``compile`` compiles, each by itself."""
        raise NotImplementedError(f"{type(self).__name__} must say what can be compiled")

    def build_losses(self) -> None:
        """Set up the losses that the options name."""
        raise NotImplementedError(f"{type(self).__name__} must build its losses")

    def setup_optimizers(self):
        """Weight decay for the weights of linears and convolutions only; fused, unless the options say otherwise."""
        settings = dict(self.opt["train"]["optim_g"])
        if not settings.get("foreach"):
            settings.setdefault("fused", True)
        self.optimizer_g = self.get_optimizer(settings.pop("type"), decay_groups(self.get_bare_model(self.net_g)),
                                              **settings)
        self.optimizers.append(self.optimizer_g)

    def get_current_learning_rate(self):
        return [self.optimizer_g.param_groups[0]["lr"]]  # both groups have the same

    def feed_data(self, data):
        self.__dict__.pop("gt", None)  # a test set without GT must not meet the last batch's
        places = data.get("place")
        self.places = places if places is None else places.tolist()  # here, where nothing has to be waited for
        if "kernel1" not in data:
            super().feed_data(data)
            return
        self.gt = data["gt"]
        self.gt, self.lq = self.degradation(data, self.sample_seeds(slice(None)))

    def sample_seeds(self, part: slice) -> list[int]:
        """Return a seed for each of some images of the batch.

        It follows from the run's seed and the image's place in the run, so that what is drawn for an image does not
        depend on the process that it falls to, nor on what was drawn before.
        """
        places = self.places
        if places is None:  # a batch of another loader than the run's
            places = [[self.iteration, number] for number in range(len(self.gt))]
        return [rng.sample_seed(self.opt["manual_seed"], *place) for place in places[part]]

    def losses(self, part: slice) -> OrderedDict[str, torch.Tensor]:
        """Return the figures, 0-dim means, of some images of the batch; those named ``l_…`` are summed and minimised.

        The network computes within ``self.stepper.autocast()``, losses in fp32 outside of it.
        """
        raise NotImplementedError(f"{type(self).__name__} must compute its losses")

    def batch_figures(self) -> dict[str, torch.Tensor]:
        """Return figures, 0-dim, of the whole batch that are no means of its parts'; called once a step."""
        return {}

    def optimize_parameters(self, current_iter):
        """Take one step down the losses, with the options' precision, accumulation, clipping and averaging."""
        self.iteration = current_iter
        size, total = len(self.lq) // self.stepper.parts, OrderedDict()
        for number in range(self.stepper.parts):
            with self.stepper.micro_batch(number):
                figures = self.losses(slice(number * size, (number + 1) * size))
                self.stepper.backward(sum(value for name, value in figures.items() if name.startswith("l_")))
            for name, value in figures.items():
                total[name] = total.get(name, 0) + value.detach() / self.stepper.parts
        self.stepper.step()
        self._skipped = self._skipped + (self.stepper.in_a_row > 0)  # on the device, where nobody waits for it
        self.log_dict = OrderedDict(total, **self.batch_figures(), grad_norm=self.stepper.norm)
        if self.ema_decay > 0:
            # The first steps from scratch count less in the average, so that the start is soon forgotten.
            warm = current_iter / (current_iter + 9) if self.from_scratch else 1.0
            self.model_ema(min(self.ema_decay, warm))

    def get_current_log(self):
        """Return the last step's figures, the mean over the processes; every process must call it.

        They stay on their device until then: a step waits for nothing.
        """
        values = torch.stack([value.float() for value in self.log_dict.values()])
        if self.opt["dist"]:
            torch.distributed.all_reduce(values)
            values /= self.opt["world_size"]
        return OrderedDict(zip(self.log_dict, values.tolist(), strict=True))

    def skipped_in_a_row(self) -> int:
        """Return how many of the last steps were skipped because their gradients were not finite."""
        return int(self.stepper.in_a_row)

    def skipped_in_all(self) -> int:
        """Return how many steps were skipped since the model was built."""
        return int(self._skipped)

    def tell_by_scale(self, tb_logger, current_iter: int) -> None:
        """Send the figures by scale since the last time to TensorBoard; every process must call it."""
        self.scale_log.tell(tb_logger, current_iter)

    def resume_training(self, resume_state):
        super().resume_training(resume_state)
        for parameter, entry in self.optimizer_g.state.items():  # of a run that was not sharded, perhaps
            entry.update({key: sharding.like(value, parameter) for key, value in entry.items()})

    def training_state(self) -> dict:
        """Return what a resumed run needs beside weights, optimisers and schedulers."""
        return {"stepper": self.stepper.state_dict(), "scale_log": self.scale_log.state_dict(),
                "from_scratch": self.from_scratch, "iteration": self.iteration}

    def load_training_state(self, state: dict) -> None:
        """Put back what ``training_state`` gave."""
        if state:
            self.stepper.load_state_dict(state["stepper"])
            self.scale_log.load_state_dict(state["scale_log"], self.device)
            self.from_scratch = state.get("from_scratch", self.from_scratch)
            self.iteration = state.get("iteration", 0)

    @torch.no_grad()
    def model_ema(self, decay=0.999):
        """Move the averaged parameters towards the trained ones; buffers are copied."""
        net, ema = self.get_bare_model(self.net_g), self.net_g_ema
        where = next(ema.parameters()).device
        trained = [sharding.local(entry.detach()).to(where, non_blocking=True) for entry in net.parameters()]
        if where.type == "cpu" and self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # the copies have arrived
        torch._foreach_lerp_([sharding.local(entry.detach()) for entry in ema.parameters()], trained, 1 - decay)
        for own, entry in zip(ema.buffers(), net.buffers(), strict=True):
            own.copy_(entry)

    def make_picture(self, net: nn.Module) -> torch.Tensor:
        """Return the pictures (B, 3, H, W) in [0, 1] that ``net`` makes of the current data."""
        raise NotImplementedError(f"{type(self).__name__} must say what it makes of a picture")

    @torch.no_grad()
    def test(self):
        """Make a picture with the averaged network where there is one."""
        net = self.whole_net or self._kept_net()
        training = net.training
        net.eval()
        with torch.compiler.set_stance("force_eager"):  # pictures of every size would be compiled anew
            self.output = self.make_picture(net)
        net.train(training)

    def _kept_net(self) -> nn.Module:
        """Return the network that makes pictures: the averaged one where there is one."""
        return self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)

    @contextlib.contextmanager
    def whole(self):
        """Make the network that makes pictures whole for a validation; every process must come here.

        After that the processes need not keep step, as they would have to with every pass of a sharded network.
        """
        offloaded = not self.is_sharded and hasattr(self, "net_g_ema") and \
            (self.opt.get("train") or {}).get("ema_offload", False)
        if self.is_sharded:
            self.whole_net = self.make_whole(self._kept_net(), self.device)
        elif offloaded:
            self.net_g_ema.to(self.device)
        try:
            yield
        finally:
            self.whole_net = None
            if offloaded:
                self.net_g_ema.to("cpu")

    def tiling(self) -> dict:
        """Return how the options want pictures cut: arguments of ``inference.picture``'s functions."""
        val = self.opt.get("val") or {}
        return {"scale": self.opt["scale"], "overlap": val.get("tile_overlap"), "batch": val.get("tile_batch", 8),
                "decode_tile": val.get("decode_tile")}

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        name, self.sample = dataloader.dataset.opt["name"], None
        with self.whole():
            super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        self.scale_log.report(name, tb_logger, current_iter)
        if tb_logger and self.sample is not None:
            tb_logger.add_image(f"{name}/first", self.sample, current_iter)

    def get_current_visuals(self):
        visuals = super().get_current_visuals()
        if getattr(self, "sample", None) is None:
            self.sample = visuals["result"][0].clamp(0, 1)
        return visuals

    def metadata(self) -> dict[str, str]:
        """What a checkpoint says of itself beside its network's options: the scale, the iteration."""
        return {"scale": str(self.opt["scale"]), "iter": str(self.iteration)}

    def save_network(self, net, net_label, current_iter, param_key="params"):
        """Write BasicSR's ``{params, params_ema}`` with ``metadata`` beside them, whole or not at all.

        The first process writes; every process must call it, since what is sharded is gathered from all.
        """
        nets, keys = (x if isinstance(x, list) else [x] for x in (net, param_key))
        content = {key: self._whole_state(network) for key, network in zip(keys, nets, strict=True)}
        if self.opt["rank"] != 0:
            return
        options = self.opt[f"network_{net_label.removeprefix('net_')}"]
        content["metadata"] = {"network": json.dumps(options), **self.metadata()}
        name = "latest" if current_iter == -1 else current_iter
        path = os.path.join(self.opt["path"]["models"], f"{net_label}_{name}.pth")
        checkpoints.write_pth(path, content)

    def _whole_state(self, net: nn.Module) -> dict[str, torch.Tensor]:
        """Return the state of a network on the CPU in the first process, and nothing in the others."""
        state = {}
        for name, value in self.get_bare_model(net).state_dict().items():
            tensor = sharding.whole(value, self.device)
            if self.opt["rank"] == 0:
                state[name] = tensor.cpu()
        return state
