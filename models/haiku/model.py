"""The qwen2 shape in PyTorch: RMSNorm, grouped-query attention with biases on q, k, v, rotary positions (i, i + d/2), SwiGLU, tied output."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

SHAPE = dict(n_layers=4, width=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn=512, context=256, rope_theta=10000.0, eps=1e-6)


class Block(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        self.attn_norm, self.ffn_norm = nn.RMSNorm(s["width"], s["eps"]), nn.RMSNorm(s["width"], s["eps"])
        kv = s["n_kv_heads"] * s["head_dim"]
        self.attn_q = nn.Linear(s["width"], s["n_heads"] * s["head_dim"])
        self.attn_k, self.attn_v = nn.Linear(s["width"], kv), nn.Linear(s["width"], kv)
        self.attn_output = nn.Linear(s["n_heads"] * s["head_dim"], s["width"], bias=False)
        self.ffn_gate, self.ffn_up = nn.Linear(s["width"], s["ffn"], bias=False), nn.Linear(s["width"], s["ffn"], bias=False)
        self.ffn_down = nn.Linear(s["ffn"], s["width"], bias=False)

    def attend(self, x, cos, sin, cache=None):
        b, t, _ = x.shape
        s, h = self.s, self.attn_norm(x)
        q = self.attn_q(h).view(b, t, s["n_heads"], s["head_dim"]).transpose(1, 2)
        k = self.attn_k(h).view(b, t, s["n_kv_heads"], s["head_dim"]).transpose(1, 2)
        v = self.attn_v(h).view(b, t, s["n_kv_heads"], s["head_dim"]).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = s["n_heads"] // s["n_kv_heads"]
        if cache is None:
            # Query heads of one group share their keys: [b, kv heads, group * t, d] against [b, kv heads, t, d]. Written out, as
            # the fused CPU kernel's backward pass is several times slower on sequences this short.
            q = q.reshape(b, s["n_kv_heads"], group * t, s["head_dim"])
            scores = (q @ k.transpose(2, 3)).view(b, s["n_kv_heads"], group, t, t)
            weights = (scores * s["head_dim"] ** -0.5 + causal(t, scores.dtype)).softmax(-1)
            a = (weights.view(b, s["n_kv_heads"], group * t, t) @ v).view(b, s["n_heads"], t, s["head_dim"])
        else:  # keys and values [b, kv heads, length so far, head_dim], mask of the padded positions
            if cache[0] is not None:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[0], cache[1] = k, v
            a = F.scaled_dot_product_attention(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), attn_mask=cache[2])
        return x + self.attn_output(a.transpose(1, 2).reshape(b, t, -1))

    def feed(self, x):
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


@functools.lru_cache(None)
def causal(t, dtype):
    return torch.full((t, t), -1e4, dtype=dtype).triu(1)


def rotate(x, cos, sin):
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Haiku(nn.Module):
    def __init__(self, n_vocab, shape=SHAPE):
        super().__init__()
        self.s = shape
        self.token_embd = nn.Embedding(n_vocab, shape["width"])
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape["n_layers"]))
        self.output_norm = nn.RMSNorm(shape["width"], shape["eps"])
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.dim() == 2:
                nn.init.normal_(p, std=0.02 if "output" not in name and "down" not in name else 0.02 / (2 * shape["n_layers"]) ** 0.5)
        inverse = shape["rope_theta"] ** (-torch.arange(0, shape["head_dim"], 2) / shape["head_dim"])
        angle = torch.arange(shape["context"])[:, None] * inverse[None]
        angle = torch.cat([angle, angle], -1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids, at, half=None):
        """Logits [len(at), vocab] at the places `at` of the flattened batch; with the places `half`, also what the third layer gets
        there and what the last one gets at `at`."""
        t = ids.shape[1]
        x = self.token_embd(ids)
        for i, block in enumerate(self.blk):
            last = i == len(self.blk) - 1
            if half is not None and i == 2:
                third = x.flatten(0, 1)[half]
            if half is not None and last:
                before = x.flatten(0, 1)[at]
            x = block.attend(x, self.cos[:t], self.sin[:t])
            if last:
                x = x.flatten(0, 1)[at]  # the rest of the last layer is needed only where the loss looks
            x = block.feed(x)
        logits = F.linear(self.output_norm(x), self.token_embd.weight)
        return logits if half is None else (logits, third, before)

    @torch.no_grad()
    def generate(self, prompts, stop, limit=60, pick=None):
        """Continues a batch of id lists until `stop`; greedy unless `pick` turns logits [b, vocab] into ids."""
        b, t = len(prompts), max(map(len, prompts))
        ids = torch.zeros(b, t, dtype=torch.long)
        pad = torch.tensor([t - len(p) for p in prompts])
        for i, p in enumerate(prompts):
            ids[i, t - len(p):] = torch.tensor(p)
        caches = [[None, None, None] for _ in self.blk]
        out, done, length = [[] for _ in prompts], [False] * b, 0
        while True:
            n = ids.shape[1]
            where = torch.arange(length, length + n)
            keys = torch.arange(length + n)
            mask = (keys[None, None] <= where[None, :, None]) & (keys[None, None] >= pad[:, None, None])
            mask = mask | (where[None, :, None] < pad[:, None, None])  # padded rows see something, and nobody sees them
            position = (where[None] - pad[:, None]).clamp(min=0)
            cos, sin = self.cos[position][:, None], self.sin[position][:, None]
            x = self.token_embd(ids)
            for block, cache in zip(self.blk, caches):
                cache[2] = mask[:, None]
                x = block.feed(block.attend(x, cos, sin, cache))
            logits = F.linear(self.output_norm(x[:, -1]), self.token_embd.weight)
            length += n
            next_ids = logits.argmax(-1) if pick is None else pick(logits)
            for i, token in enumerate(next_ids.tolist()):
                if not done[i]:
                    out[i].append(token)
                    done[i] = token == stop
            if all(done) or length - t + 1 >= limit:
                return out
            ids = next_ids[:, None]
