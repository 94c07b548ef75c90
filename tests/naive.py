"""The methods once more, the slow way: every map is built, every rule is a loop over tokens, every branch is evaluated
in both sides. Of `reinvert` only the model's parts are used (network, text encoder, tokenizer).

Written from the papers and the methods page, not from the package: where the two could share a mistake, they share no
code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


def alphas() -> list[float]:
    """abar_0 .. abar_999 of section 1.1: the product in float32, as every program has it, then read as doubles."""
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32)
    return torch.cumprod(1 - roots**2, 0).tolist()


ALPHAS = alphas()


def abar(time: int) -> float:
    """Negative times are the clean end, whose alpha is that of time 0."""
    return ALPHAS[max(time, 0)]


def times(steps: int) -> list[int]:
    """tau_s, s = 0 .. N-1."""
    return [1000 // steps * (steps - 1 - s) + 1 for s in range(steps)]


def coefficients(t: int, steps: int) -> tuple[float, float]:
    """(A, Bc) of z_prev = A z + Bc e."""
    hi, lo = abar(t), abar(t - 1000 // steps)
    return math.sqrt(lo / hi), math.sqrt(1 - lo) - math.sqrt(lo * (1 - hi) / hi)


# --- words and maps ------------------------------------------------------------------------------------------


def ids(tokenizer, prompt: str) -> list[int]:
    return tokenizer(prompt).input_ids


def word_tokens(tokenizer, prompt: str) -> list[tuple[str, list[int]]]:
    """Every word with the positions of its tokens; position 0 is BOS."""
    out, at = [], 1
    for word in prompt.split(" "):
        n = len(tokenizer(word).input_ids) - 2
        out.append((word, list(range(at, at + n))))
        at += n
    return out


def positions(tokenizer, prompt: str, word: str) -> list[int]:
    return [p for w, tokens in word_tokens(tokenizer, prompt) if w == word for p in tokens]


def refine(tokenizer, source: str, target: str) -> tuple[list[int], list[int]]:
    """(map, a) by Needleman-Wunsch: gap 0, match 1, mismatch -1; the trace prefers left, then up, then diagonal."""
    x, y, n = ids(tokenizer, source), ids(tokenizer, target), tokenizer.model_max_length
    score = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i in range(1, len(x) + 1):
        for j in range(1, len(y) + 1):
            diagonal = score[i - 1][j - 1] + (1 if x[i - 1] == y[j - 1] else -1)
            score[i][j] = max(score[i][j - 1], score[i - 1][j], diagonal)
    pairs, i, j = [-1] * len(y), len(x), len(y)
    while i > 0 and j > 0:
        if score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs[j] = i
    mapping = [*pairs, *range(len(y), n)]
    return mapping, [0 if m < 0 else 1 for m in mapping]


def replacement(tokenizer, source: str, target: str) -> Tensor:
    """M of section 6.5, with the tail put right (M[i, j] = 1)."""
    n = tokenizer.model_max_length
    old, new = word_tokens(tokenizer, source), word_tokens(tokenizer, target)
    changed = [(a, b) for (v, a), (w, b) in zip(old, new, strict=True) if v != w]
    m, i, j = torch.zeros(n, n), 0, 0
    while i < n and j < n:
        if changed and i == changed[0][0][0]:
            a, b = changed.pop(0)
            for p in a:
                for q in b:
                    if len(a) == len(b):
                        m[p, q] = float(p - a[0] == q - b[0])
                    else:
                        m[p, q] = 1 / len(b)
            i, j = i + len(a), j + len(b)
        else:
            m[i, j] = 1
            i, j = i + 1, j + 1
    return m


@dataclass
class Attention:
    """Prompt-to-Prompt's controllers on full maps, and the store that LocalBlend reads."""

    tokenizer: object
    prompts: list[str]
    """The source, then the targets."""
    steps: int
    kind: str = "refine"
    cross: float = 0.4
    word_windows: dict[str, tuple[float, float]] = field(default_factory=dict)
    self_share: float = 0.6
    boost: dict[str, float] = field(default_factory=dict)
    self_queries: int = 64
    """Self-attention with at most so many queries is injected."""
    store_queries: int = 256
    """Cross-attention of down and up blocks with so many queries is stored."""
    step: int = 0
    active: bool = True
    store: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        source, *targets = self.prompts
        n = self.tokenizer.model_max_length
        self.refined = [refine(self.tokenizer, source, t) for t in targets]
        self.replaced = [replacement(self.tokenizer, source, t) for t in targets] if self.kind == "replace" else []
        self.gain = torch.ones(len(targets), n)
        self.window = torch.zeros(self.steps + 1, len(targets), n)
        self.window[: int(self.cross * (self.steps + 1))] = 1
        for b, target in enumerate(targets):
            for word, factor in self.boost.items():
                for p in positions(self.tokenizer, target, word):
                    self.gain[b, p] = factor
            for word, (lo, hi) in self.word_windows.items():
                for p in positions(self.tokenizer, target, word):
                    for s in range(self.steps + 1):
                        inside = int(lo * (self.steps + 1)) <= s < int(hi * (self.steps + 1))
                        self.window[s, b, p] = float(inside)

    def __call__(self, maps: Tensor, name: str, crossing: bool) -> Tensor:
        """maps [row, head, query, key], rows: null of every branch, then text of every branch."""
        if not self.active:
            return maps
        n = len(self.prompts)
        out = maps.clone()
        source = maps[n]
        for b in range(1, n):
            row = n + b
            if not crossing:
                if maps.shape[2] <= self.self_queries and self.step < int(self.self_share * self.steps):
                    out[row] = source
                continue
            for token in range(maps.shape[3]):
                if not self.window[self.step, b - 1, token]:
                    continue
                if self.kind == "replace":
                    read = sum(source[:, :, m] * self.replaced[b - 1][m, token] for m in range(maps.shape[3]))
                else:
                    mapping, a = self.refined[b - 1]
                    read = source[:, :, mapping[token]] if a[token] else maps[row][:, :, token]
                out[row][:, :, token] = self.gain[b - 1, token] * read
        if crossing and maps.shape[2] == self.store_queries and not name.startswith("mid"):
            self.store[name] = self.store.get(name, 0) + out[n:]
        return out


@dataclass
class Blend:
    """LocalBlend of section 6.8 on the stored maps."""

    words: tuple[tuple[str, ...], tuple[str, ...]]
    without: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    threshold: float = 0.3
    without_threshold: float = 0.3
    start: float = 0.2

    def __call__(self, z: Tensor, attention: Attention) -> Tensor:
        if attention.step + 1 <= int(self.start * attention.steps):
            return z
        mask = self._mask(z, attention, self.words, self.threshold, pool=True)
        if self.without:
            mask = mask & ~self._mask(z, attention, self.without, self.without_threshold, pool=False)
        out = z.clone()
        for b in range(1, len(z)):
            out[b] = torch.where(mask[b], z[b], z[0])
        return out

    def _mask(self, z: Tensor, attention: Attention, words, threshold: float, *, pool: bool) -> Tensor:
        regions = []
        for b, prompt in enumerate(attention.prompts):
            tokens = [p for w in words[min(b, 1)] for p in positions(attention.tokenizer, prompt, w)]
            per_layer = [maps[b][:, :, tokens].sum(-1).mean(0) for maps in attention.store.values()]
            side = math.isqrt(attention.store_queries)
            region = (sum(per_layer) / len(per_layer)).view(1, 1, side, side)
            if pool:
                region = F.max_pool2d(region, 3, 1, 1)
            region = F.interpolate(region, z.shape[-2:])
            regions.append((region / region.max() > threshold)[0])
        return torch.stack([region | regions[0] for region in regions])


class FullMaps:
    """A diffusers attention processor that builds softmax(q k^T) and hands it to `edit`."""

    def __init__(self, name: str, edit: Attention) -> None:
        self.name, self.edit = name, edit

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        crossing = encoder_hidden_states is not None
        said = encoder_hidden_states if crossing else hidden_states

        def heads(x: Tensor) -> Tensor:
            return x.reshape(len(x), x.shape[1], attn.heads, -1).permute(0, 2, 1, 3)

        q, k, v = heads(attn.to_q(hidden_states)), heads(attn.to_k(said)), heads(attn.to_v(said))
        maps = torch.softmax(torch.einsum("rhqd,rhkd->rhqk", q, k) / math.sqrt(q.shape[-1]), -1)
        out = torch.einsum("rhqk,rhkd->rhqd", self.edit(maps, self.name, crossing), v)
        return attn.to_out[0](out.permute(0, 2, 1, 3).reshape(len(q), hidden_states.shape[1], -1))


# --- loops ---------------------------------------------------------------------------------------------------


def encode(model, prompts: list[str]) -> Tensor:
    rows = model.tokenizer(
        prompts, padding="max_length", max_length=model.tokenizer.model_max_length, return_tensors="pt"
    )
    with torch.no_grad():
        return model.text_encoder(rows.input_ids)[0]


def noise(model, z: Tensor, t: int, text: Tensor) -> Tensor:
    """The network's answer as noise; a v-prediction is read at the level of the timestep that the network is told."""
    out = model.unet(z, t, encoder_hidden_states=text).sample
    if json.loads(model.schedule)["prediction_type"] == "epsilon":
        return out
    return math.sqrt(abar(t)) * out + math.sqrt(1 - abar(t)) * z


def ask(model, z: Tensor, t: int, text: Tensor) -> Tensor:
    with torch.no_grad():
        return noise(model, z, t, text)


def invert(model, x0: Tensor, prompt: str, steps: int, guidance: float = 1.0) -> list[Tensor]:
    """z*_0 .. z*_N of section 1.3, each [1, c, h, w]."""
    text, empty = encode(model, [prompt]), encode(model, [""])
    path = [x0]
    for t in reversed(times(steps)):
        e = ask(model, path[-1], t, text)
        if guidance != 1:
            null = ask(model, path[-1], t, empty)
            e = null + guidance * (e - null)
        a, b = coefficients(t, steps)
        path.append((path[-1] - b * e) / a)
    return path


def guided(model, z: Tensor, t: int, null: Tensor, text: Tensor, w: float, soft: float | None = None) -> Tensor:
    """eCFG of every branch; `soft` is proximal guidance's quantile."""
    e = ask(model, torch.cat([z, z]), t, torch.cat([null, text]))
    e_u, e_c = e.chunk(2)
    d = e_c - e_u
    if soft is not None:
        lam = d.abs().flatten().sort().values
        rank = soft * (len(lam) - 1)
        low = math.floor(rank)
        lam = lam[low] + (rank - low) * (lam[min(low + 1, len(lam) - 1)] - lam[low])
        d = torch.where(d.abs() > lam, d - lam * d.sign(), 0)
    return e_u + w * d


def guided_step(model, z: Tensor, t: int, null: Tensor, text: Tensor, w: float, steps: int) -> Tensor:
    """One guided DDIM step of one branch."""
    a, b = coefficients(t, steps)
    return a * z + b * guided(model, z, t, null, text, w)


def edit(
    model,
    path: list[Tensor],
    attention: Attention,
    *,
    w: float = 7.5,
    nulls: list[list[Tensor]] | None = None,
    offsets: list[Tensor] | None = None,
    blend: Blend | None = None,
    soft: float | None = None,
) -> list[Tensor]:
    """The two-branch loop: CFG, DDIM step, + offsets (one row per branch), LocalBlend. Latents after every step.

    `nulls` is [step][branch], each [token, dim]; the empty prompt by default.
    """
    n = len(attention.prompts)
    text, empty = encode(model, attention.prompts), encode(model, [""])
    z = path[-1].expand(n, -1, -1, -1)
    former = dict(model.unet.attn_processors)
    model.unet.set_attn_processor({k: FullMaps(k, attention) for k in former})
    out = []
    try:
        for s, t in enumerate(times(attention.steps)):
            attention.step = s
            null = empty.expand(n, -1, -1) if nulls is None else torch.stack(nulls[s]).to(z)
            e = guided(model, z, t, null, text, w, soft)
            a, b = coefficients(t, attention.steps)
            z = a * z + b * e
            if offsets is not None:
                z = z + offsets[s]
            if blend:
                z = blend(z, attention)
            out.append(z)
    finally:
        model.unet.set_attn_processor(former)
    return out


def offsets(
    model,
    path: list[Tensor],
    prompts: list[str],
    w: float = 7.5,
    scale: float = 1.0,
    corrected: Callable[[int], bool] = lambda s: True,
) -> list[Tensor]:
    """o_s of section 5.1 (5.4 with a scale, 5.5 with intervals): one row for the source and one per target, all of
    them walked along the source's path."""
    steps, n = len(path) - 1, len(prompts)
    text, empty = encode(model, prompts), encode(model, [""]).expand(n, -1, -1)
    zhat, out = path[-1].expand(n, -1, -1, -1), []
    for s, t in enumerate(times(steps)):
        a, b = coefficients(t, steps)
        stepped = a * zhat + b * guided(model, zhat, t, empty, text, w)
        share = scale if corrected(s) else 0.0
        out.append(share * (path[steps - s - 1].expand(n, -1, -1, -1) - stepped))
        zhat = stepped + out[-1]
    return out


def null_text(
    model, path: list[Tensor], prompt: str, w: float = 7.5, inner: int = 10
) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """Section 3.1: (phi_s, the latents they lead to from z*_N on, inner steps taken)."""
    steps = len(path) - 1
    text, phi = encode(model, [prompt]), encode(model, [""])
    z, learned, followed, taken = path[-1], [], [path[-1]], []
    for s, t in enumerate(times(steps)):
        a, b = coefficients(t, steps)
        phi = phi.detach().clone().requires_grad_(True)
        adam = torch.optim.Adam([phi], lr=0.01 * (1 - s / 100))
        e_c, count = ask(model, z, t, text), 0
        for _ in range(inner):
            e_u = noise(model, z, t, phi.to(z))
            loss = F.mse_loss(a * z + b * (e_u + w * (e_c - e_u)), path[steps - s - 1])
            adam.zero_grad()
            loss.backward()
            adam.step()
            count += 1
            if loss.item() < 1e-5 + 2e-5 * s:
                break
        phi = phi.detach()
        e_u = ask(model, z, t, phi.to(z))
        z = a * z + b * (e_u + w * (e_c - e_u))
        learned.append(phi[0])
        followed.append(z)
        taken.append(count)
    return learned, followed, taken
