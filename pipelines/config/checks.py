"""Values that are each in range and cannot work together."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

from actors.learner.choices import ATTENTIONS
from pipelines.config.algorithm import objections
from pipelines.config.chains import Teacher
from pipelines.config.constraints import ConfigError, violations
from pipelines.planning.shape import ShapeError, refuse_unsplittable, shape_if_known
from pipelines.runs.catalogue import STAGES

if TYPE_CHECKING:
    from pipelines.config.schema import Config


def check(config: Config) -> None:
    """Refuse what cannot work, before anything is allocated.

    Raises:
        ConfigError: naming the key, its value and what to change.

    """
    for reasons in (
        violations(config),
        _of_names(config),
        _of_evaluation(config),
        _of_chains(config),
        objections(config.algorithm, config.verifier, config.data.orders),
        _of_batches(config),
        _of_modes(config),
        _of_endpoint(config),
        _of_lengths(config),
        _of_memory(config),
        _of_attention(config),
        _of_adapters(config),
        _of_optimizers(config),
        _of_devices(config),
        _of_turns(config),
        _of_copies(config),
    ):
        if reason := next(reasons, None):
            raise ConfigError(reason)


def _of_names(config: Config) -> Iterator[str]:
    shown = [("tracking.runs", name) for name in config.tracking.runs]
    for name, value in (("run", config.run), ("evaluate.label", config.evaluate.label), *shown):
        if value is not None and (
            not value.strip() or "/" in value or value.startswith(".") or any(map(_no_letter, value))
        ):
            yield (
                f"{name}={value!a} must be a plain folder name: no '/', no leading '.', no control character; where "
                "the environment's language is not UTF-8, set PYTHONUTF8=1"
            )
    if not config.output_root.strip():
        yield "output_root is empty: name a folder, such as output_root=outputs"


def _of_endpoint(config: Config) -> Iterator[str]:
    evaluate = config.evaluate
    for name in ("model", "base_url"):
        if getattr(evaluate.endpoint, name) is not None:
            yield f"evaluate.endpoint.{name} is not read: set evaluate.{name}"
    if evaluate.model is not None and not evaluate.model.removeprefix("openai:").strip():
        yield f"evaluate.model={evaluate.model!r} names no model: write a folder, a hub name, or openai:NAME"
    if evaluate.base_url is not None and not (evaluate.model or "").startswith("openai:"):
        yield (
            f"evaluate.base_url is only read for a model behind an endpoint: write evaluate.model=openai:"
            f"{evaluate.model or 'NAME'}"
        )


def _no_letter(character: str) -> bool:
    """Whether a character cannot stand in a name: it controls something, or is half of a surrogate pair."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _of_evaluation(config: Config) -> Iterator[str]:
    for name in ("evaluate", "judge", "rank", "serve"):
        section = getattr(config, name)
        if section.votes > 1 and section.temperature == 0:
            yield (
                f"{name}.votes={section.votes} at {name}.temperature=0 gives equal votes: "
                "set a temperature, for example 1.0"
            )


def _of_chains(config: Config) -> Iterator[str]:
    chains = config.chains
    priced = any(teacher.input_price or teacher.output_price for teacher in (chains.first, chains.second))
    if chains.budget_cost and not priced:
        yield (
            "chains.budget_cost has no effect without prices: set chains.first.input_price and output_price, "
            "or limit the tokens with chains.budget_tokens"
        )
    if chains.second.model is None and chains.second != Teacher():
        yield (
            "chains.second has settings but no model, so the first teacher writes the second pass with its own: "
            "set chains.second.model"
        )


def _of_batches(config: Config) -> Iterator[str]:
    batch, mini = config.rl.prompts_per_step, config.rl.mini_batch_prompts
    if batch % mini:
        yield (
            f"rl.prompts_per_step={batch} does not divide into mini-batches of rl.mini_batch_prompts={mini}: "
            f"choose a divisor of {batch}"
        )
    if config.data.orders == "both" and mini % 2:
        yield (
            f"rl.mini_batch_prompts={mini} must be even with data.orders=both: both orders of a pair share a mini-batch"
        )


def _of_modes(config: Config) -> Iterator[str]:
    modes, data = config.data.modes, config.data
    others = [name for name in ("pointwise", "listwise") if getattr(modes, name)]
    if not others:
        if not modes.pairwise:
            yield "data.modes has no share above 0: set data.modes.pairwise=1"
        return
    named = f"data.modes.{others[0]}={getattr(modes, others[0]):g}"
    if data.orders != "both":
        yield f"{named} puts two prompts of a pair into a batch: set data.orders=both, not {data.orders}"
    if data.train is None and data.wording != "terse":
        yield f"{named}: the built-in family has chains for it in its terse wording only: set data.wording=terse"
    if "verdict" not in config.algorithm.reward:
        yield f"{named} is rewarded by the component verdict: set algorithm.reward.verdict"
    for name in ("swap_consistency", "length"):
        if name in config.algorithm.reward:
            yield f"{named}: the reward component {name} knows pairs only: leave it out, or train pairwise alone"


def _of_lengths(config: Config) -> Iterator[str]:
    if config.evaluate.benchmarks:
        return  # A benchmark needs no learners.
    longest = config.model.max_prompt_tokens + config.model.max_response_tokens
    if longest > config.learner.micro_batch_tokens:
        yield (
            f"learner.micro_batch_tokens={config.learner.micro_batch_tokens} cannot hold one sequence of "
            f"model.max_prompt_tokens + model.max_response_tokens = {longest}: "
            "raise the first or lower one of the others"
        )
    if config.distill.max_tokens > config.learner.micro_batch_tokens:
        yield (
            f"learner.micro_batch_tokens={config.learner.micro_batch_tokens} cannot hold one sequence of "
            f"distill.max_tokens={config.distill.max_tokens}: raise the first or lower the second"
        )


def _of_memory(config: Config) -> Iterator[str]:
    if config.learner.offload != "none" and config.cluster.device == "cpu":
        yield (
            f"learner.offload={config.learner.offload} moves nothing with cluster.device=cpu, where all of it is in "
            "the machine's memory already: set learner.offload=none"
        )


def _of_attention(config: Config) -> Iterator[str]:
    kind, device = config.learner.attention, config.cluster.device
    if kind == "auto":
        return
    if not config.learner.packing:
        yield f"learner.attention={kind} is of packed rows: set learner.packing=true, or learner.attention=auto"
    if device not in ATTENTIONS[kind].devices:
        yield f"learner.attention={kind} has no gradients with cluster.device={device}: set learner.attention=auto"


def _of_adapters(config: Config) -> Iterator[str]:
    if not config.learner.lora.rank:
        return
    if not config.learner.lora.targets:
        yield "learner.lora.targets=[] leaves nothing to train: name linear layers, or all-linear"
    if config.learner.offload == "reference":
        yield (
            "learner.offload=reference moves nothing with learner.lora.rank="
            f"{config.learner.lora.rank}, whose reference is the policy without its adapters: set learner.offload=none"
        )


def _of_optimizers(config: Config) -> Iterator[str]:
    for name in dict.fromkeys(record.section for record in STAGES.values()):
        optimizer = getattr(getattr(config, name), "optimizer", None)
        if optimizer and (len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas)):
            yield f"{name}.optimizer.betas={list(optimizer.betas)} must be two numbers in [0, 1)"


def _of_devices(config: Config) -> Iterator[str]:
    """Of a model that a stage takes from elsewhere, engines are held to the same when they start."""
    devices, path = config.rollout.tensor_parallel, config.model.path
    if devices > 1 and path and not (config.rl.policy or config.evaluate.model):
        shape = shape_if_known(path, config.model.shape)
        try:
            if shape:
                refuse_unsplittable(shape, devices, path)
        except ShapeError as error:
            yield str(error)


def _of_turns(config: Config) -> Iterator[str]:
    """What engines and learners on the same devices cannot do, which have them in turn."""
    if not config.cluster.share_devices:
        return
    algorithm, rollout, learner = config.algorithm, config.rollout, config.learner
    shared = "cluster.share_devices=true"
    if algorithm.max_staleness:
        yield (
            f"algorithm.max_staleness={algorithm.max_staleness} has engines write while learners work, and {shared} "
            "has them take turns: set algorithm.max_staleness=0, or cluster.share_devices=false"
        )
    if config.rl.learn_early:
        yield (
            f"rl.learn_early=true has learners work while engines write, and {shared} has them take turns: set "
            "rl.learn_early=false, or cluster.share_devices=false"
        )
    if config.cluster.weight_transfer != "file":
        yield (
            f"cluster.weight_transfer={config.cluster.weight_transfer} needs a device for the sender and one for each "
            f"receiver (NCCL), and {shared} gives them the same: set cluster.weight_transfer=file"
        )
    if rollout.tensor_parallel > 1:
        yield (
            f"rollout.tensor_parallel={rollout.tensor_parallel} does not go with {shared}, where an engine and a rank "
            "have one device: set rollout.tensor_parallel=1, with more rollout.workers"
        )
    if rollout.workers != learner.ranks:
        yield (
            f"rollout.workers={rollout.workers} and learner.ranks={learner.ranks} must be equal with {shared}: an "
            "engine and a rank have a device together"
        )


def _of_copies(config: Config) -> Iterator[str]:
    if not config.learner.copies_on_other_nodes:
        return
    sent = "learner.copies_on_other_nodes=true sends on the copies that"
    if not config.learner.peer_copy:
        yield f"{sent} learner.peer_copy=false does not make: set learner.peer_copy=true, or leave it out"
    if config.cluster.share_devices:
        yield f"{sent} learners on shared devices do not make: set cluster.share_devices=false, or leave it out"
