"""Pieces that do not fit are cut in two, and nothing that is computed changes."""

from weakref import WeakSet

import pytest
import torch

import diffrl
from diffrl import moments
from diffrl.builtin.samplers import Ddim
from diffrl.errors import OutOfMemory
from diffrl.judge import WeightedJudge
from diffrl.scoring import ScoredBy
from diffrl.speed import fitting
from diffrl.speed.fitting import UNBOUNDED, Fitting, Pieces, memory_ended
from diffrl.streams import Streams
from diffrl.trainer.fitted import Gradients, learnt, part, sampled
from diffrl.types import Minibatch


@pytest.fixture(autouse=True)
def _nothing_else_holds_memory(monkeypatch):
    """Recordings of earlier tests are not let go here first."""
    monkeypatch.setattr(fitting, "HOLDERS", WeakSet())


class Small:
    """Memory that ends beyond a number of rows, as a GPU's does."""

    def __init__(self, monkeypatch, network, rows, after=False):
        self.rows, self.ended, self.sizes = rows, 0, []
        forward = network.forward

        def checked(x, *args, **options):
            out = forward(x, *args, **options) if after else None
            if len(x) > self.rows:
                self.ended += 1
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            self.sizes.append(len(x))
            return forward(x, *args, **options) if out is None else out

        monkeypatch.setattr(network, "forward", checked)


def learn_from(world, batch_of, pieces, whole, log=None):
    def learn(piece, start):
        if log is not None:
            log.append((start, len(piece.rows), piece.commit))
        log_prob = world.policy.log_prob(batch_of(piece))
        (piece.weight * log_prob.square().mean()).backward()
        return piece.weight, {"value": log_prob.mean().detach()}

    found = learnt(whole, pieces, learn, world.policy.trained.values())
    gradients = {n: p.grad.clone() for n, p in world.policy.trained.items()}
    for p in world.policy.trained.values():
        p.grad = None
    return found, gradients


WHOLE = Minibatch(torch.arange(4)[:, None], torch.tensor([[0], [1], [2], [1]]), True)


class Holder:
    """Holds memory, and lets it go once."""

    def __init__(self):
        self.held = True

    def let_go(self):
        held, self.held = self.held, False
        return held


@pytest.mark.parametrize("size", [1, 3])
def test_gradients_are_right_where_a_last_small_piece_is_done_again_whole(
    size, plain, monkeypatch, same_gradients
):
    """Somebody has let memory go, so that the same piece fits; its first try left half a sum."""
    rollout, ended = plain.rollout(), []

    def batch_of(piece):
        return plain.batch(rollout, piece.rows.tolist(), piece.steps.tolist())

    def backward(piece, start):
        log_prob = plain.policy.log_prob(batch_of(piece))
        (piece.weight * log_prob.square().mean()).backward()
        if start == 3 and armed and not ended:
            ended.append(start)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return piece.weight, {}

    def gradients():
        pieces = Fitting("train.micro_batch", size)
        learnt(WHOLE, pieces, backward, plain.policy.trained.values())
        found = {n: p.grad.clone() for n, p in plain.policy.trained.items()}
        for p in plain.policy.trained.values():
            p.grad = None
        return found, pieces

    armed = False
    wanted, _ = gradients()
    armed, holder = True, Holder()
    fitting.HOLDERS.add(holder)
    found, pieces = gradients()
    assert ended == [3] and not holder.held and pieces.cuts == 0
    assert same_gradients(found, wanted)


def test_a_piece_is_not_held_while_the_next_is_drawn(plain):
    alive, most = WeakSet(), []

    class Counted(Ddim):
        def __call__(self, policy, text, rng):
            most.append(len(alive))
            rollout = super().__call__(policy, text, rng)
            alive.add(rollout.x0)
            return rollout

    rng = Streams(range(6))
    pieces = Fitting("train.sample_batch", 2)
    for rollout in sampled(Counted(steps=1), plain.policy, ["a"] * 6, rng, pieces):
        shape = rollout.x0.shape
        del rollout
    assert shape[0] == 2 and most == [0, 0, 0]


def test_gradients_are_those_without_the_error(plain, monkeypatch, same_gradients):
    rollout = plain.rollout()

    def batch_of(piece):
        return plain.batch(rollout, piece.rows.tolist(), piece.steps.tolist())

    _, wanted = learn_from(plain, batch_of, Fitting("train.micro_batch", 4), WHOLE)
    small = Small(monkeypatch, plain.unet, 1)
    pieces = Fitting("train.micro_batch", 4)
    found, gradients = learn_from(plain, batch_of, pieces, WHOLE)
    assert small.ended == 2 and small.sizes == [1, 1, 1, 1]
    assert (pieces.size, pieces.cuts) == (1, 2)
    assert sum(weight for weight, _ in found) == WHOLE.weight
    assert same_gradients(gradients, wanted)


def test_gradients_of_a_backward_pass_that_ended_halfway_are_taken_back(plain, same_gradients):
    rollout = plain.rollout()

    def batch_of(piece):
        return plain.batch(rollout, piece.rows.tolist(), piece.steps.tolist())

    _, wanted = learn_from(plain, batch_of, Fitting("train.micro_batch", 1), WHOLE)
    ended, weights = [], list(plain.policy.trained.values())

    def full(gradient):
        if len(ended) < 2 and any(w.grad is not None for w in weights):
            ended.append(True)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return gradient

    handles = [w.register_hook(full) for w in weights]
    pieces = Fitting("train.micro_batch", 4)
    _, gradients = learn_from(plain, batch_of, pieces, WHOLE)
    for handle in handles:
        handle.remove()
    assert len(ended) == 2 and pieces.size == 1
    assert same_gradients(gradients, wanted)


def test_gradients_are_kept_in_the_same_memory_until_they_are_put_back():
    weights = [torch.nn.Parameter(torch.randn(size)) for size in (3, 4)]
    kept = Gradients(weights)
    kept.keep()
    weights[0].grad = torch.randn(3)
    kept.put_back()
    assert [w.grad for w in weights] == [None, None]
    places = set()
    for _ in range(3):
        for one in weights:
            one.grad = torch.randn_like(one)
        kept.keep()
        places.add(tuple(one.data_ptr() for one in kept._kept))
    wanted = [one.grad.clone() for one in weights]
    for one in weights:
        one.grad.add_(1)
    kept.put_back()
    assert all(torch.equal(w.grad, one) for w, one in zip(weights, wanted, strict=True))
    kept.keep()  # what was put back is theirs, so that it is not written over
    for one in weights:
        one.grad.add_(1)
    kept.put_back()
    assert all(torch.equal(w.grad, one) for w, one in zip(weights, wanted, strict=True))
    assert len(places) == 1


def test_a_part_is_told_where_it_begins_also_when_it_is_done_again(plain, monkeypatch):
    rollout, log = plain.rollout(), []

    def batch_of(piece):
        return plain.batch(rollout, piece.rows.tolist(), piece.steps.tolist())

    Small(monkeypatch, plain.unet, 2)
    learn_from(plain, batch_of, Fitting("train.micro_batch", UNBOUNDED), WHOLE, log)
    assert log == [(0, 4, True), (0, 2, False), (2, 2, True)]


@pytest.mark.parametrize("streams", [True, False])
def test_pictures_are_those_of_smaller_pieces_from_the_start(plain, monkeypatch, streams):
    text, sampler = ["a fox", "two owls", "a bat"], Ddim(steps=2, group=2)

    def draw(pieces):
        rng = Streams([5, 6, 7]) if streams else torch.Generator().manual_seed(5)
        return [r.x0 for r in sampled(sampler, plain.policy, text, rng, pieces)]

    wanted = draw(Fitting("train.sample_batch", 3))
    small = Small(monkeypatch, plain.unet, 3, after=True)
    drawn = draw(Fitting("train.sample_batch", UNBOUNDED))
    assert small.ended == 1
    assert [len(x) for x in drawn] == [len(x) for x in wanted] == [2, 2, 2]
    assert all(torch.equal(a, b) for a, b in zip(drawn, wanted, strict=True))


@pytest.mark.parametrize("by", ["each", "grad"])
def test_scores_are_the_same_and_entered_once(plain, by):
    rollout = plain.rollout()
    steps = torch.full((4,), 2)

    def decode(x0):
        if len(x0) > 1 and small:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return x0[:, :3].sigmoid()

    def bright(images, text):
        if len(images) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return images.mean((1, 2, 3))

    def judged(batch):
        reward = ScoredBy("bright", bright, 2.0, differentiable=True)
        judge = WeightedJudge(decode, [reward], batch)
        return getattr(judge, by)(rollout.x0, rollout.prompts, steps), judge.drain()

    small = False
    wanted, _ = judged(1)
    small = True
    pieces = Fitting("train.decode_batch", UNBOUNDED)
    found, ledger = judged(pieces)
    assert pieces.size == 1
    assert ledger.queries == 4 and len(ledger.columns()[1]["bright"]) == 4
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_where_nothing_fits_one_line_says_what_to_do(plain, monkeypatch):
    Small(monkeypatch, plain.unet, 0)
    pieces = Fitting("train.sample_batch", 16)
    drawing = sampled(Ddim(steps=2), plain.policy, ["a fox"], torch.Generator(), pieces)
    with pytest.raises(OutOfMemory, match=r"^memory ends even with train\.sample_batch = 1; try "):
        next(drawing)


def test_zero_is_all_that_fits_and_a_stated_size_on_a_cpu():
    assert [one.size for one in Pieces.of(0, 0, 0, "cpu").each] == [16, 8, 16]
    assert [one.size for one in Pieces.of(0, 5, 0, "cuda").each] == [UNBOUNDED, 5, UNBOUNDED]


def test_the_parts_of_a_minibatch_weigh_as_the_whole_and_the_last_commits():
    parts = [part(WHOLE, start, 3) for start in (0, 3)]
    assert [p.weight for p in parts] == [0.75, 0.25]
    assert [p.commit for p in parts] == [False, True]


def test_a_run_goes_on_with_what_fits_and_says_so(tiny_model, tiny_clip, tmp_path, monkeypatch):
    from diffusers import UNet2DConditionModel

    forward, ended = UNet2DConditionModel.forward, []

    def checked(self, x, *args, **options):
        if torch.is_grad_enabled() and len(x) > 3:
            ended.append(len(x))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, x, *args, **options)

    sets = [
        f"model.ref={tiny_model}", f"rewards.pickscore.checkpoint={tiny_clip}",
        "train.trajectories=8", "sampler.lengths=[]", "sampler.steps=3",
        "eval.images=2", "eval.steps=[1]", "eval.watch=[]", "checkpoint.every=1",
        "speed.deduplicate=off",
    ]  # fmt: skip
    single, auto = ([*sets, f"train.micro_batch={size}"] for size in (1, 0))
    wanted = diffrl.train(
        "sdpo", "pickscore", epochs=2, sets=single, output=tmp_path / "single", live=False
    )
    monkeypatch.setattr(UNet2DConditionModel, "forward", checked)
    run = diffrl.train(
        "sdpo", "pickscore", epochs=1, sets=auto, output=tmp_path / "run", live=False
    )
    assert ended
    text = (run.folder / "notices.jsonl").read_text("utf-8")
    assert text.count("from now on train.micro_batch is 1, with the same result") == 1
    before = len(ended)
    resumed = diffrl.resume(run.folder, epochs=2, live=False)
    assert len(ended) == before  # it begins with what has turned out to fit
    for key in ("loss/value", "grad_norm", "reward/pickscore/mean"):
        for epoch in (1, 2):
            assert resumed.metrics[epoch][key] == wanted.metrics[epoch][key]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA driver error: out of memory"),
    ],
)
def test_memory_that_ends_in_cudas_libraries_is_memory_that_ends(error):
    def attempt(size):
        if size > 1:
            raise error
        return size

    assert Fitting("train.micro_batch", 4).run(attempt, 4) == 1


def test_another_error_is_no_end_of_memory():
    def attempt(size):
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        Fitting("train.micro_batch", 4).run(attempt, 4)


def test_a_size_that_was_cut_counts_while_the_setting_is_the_same():
    cut = Pieces.of(0, 8, 16, "cuda")
    cut.sample.size, cut.sample.cuts = 4, 1
    cut.micro.size, cut.micro.cuts = 2, 1
    same, other = Pieces.of(0, 8, 16, "cuda"), Pieces.of(0, 6, 16, "cuda")
    same.go_on(cut.found())
    other.go_on(cut.found())
    assert [p.size for p in same.each] == [4, 2, 16]
    assert [p.size for p in other.each] == [4, 6, 16]
    old = Pieces.of(0, 8, 16, "cuda")
    old.go_on({"train.micro_batch": 2.0})  # of a checkpoint that does not say what was given
    assert old.micro.size == 2


def test_memory_that_ends_while_models_load_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("diffrl.trainer.session.open_pipeline", full)
    with pytest.raises(OutOfMemory, match=r"^memory ends in loading the models; try .* 2 GiB"):
        diffrl.train("sdpo", "pickscore", epochs=1, output=tmp_path / "run", live=False)
    assert not (tmp_path / "run").exists()
    assert moments.BEGAN is None  # or the next run of this process would count from there


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "MPS backend out of memory (MPS allocated: 8.00 GiB, max allowed: 9.07 GiB)",
    ],
)
def test_memory_that_ends_is_known_by_what_libraries_say(said):
    assert memory_ended(RuntimeError(said)) and not memory_ended(ValueError(said))
