"""The model as a GGUF file, and back: F16 matrices, F32 norms and biases, the tokenizer, the chat template."""

import os

import gguf
import numpy as np
import torch

import bpe
from model import Haiku

TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write(path, model, tokens, merges):
    s = model.s
    w = gguf.GGUFWriter(path + ".part", "qwen2")
    w.add_name("haiku")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    w.add_context_length(s["context"])
    w.add_embedding_length(s["width"])
    w.add_block_count(s["n_layers"])
    w.add_feed_forward_length(s["ffn"])
    w.add_head_count(s["n_heads"])
    w.add_head_count_kv(s["n_kv_heads"])
    w.add_rope_freq_base(s["rope_theta"])
    w.add_layer_norm_rms_eps(s["eps"])
    w.add_key_length(s["head_dim"])
    w.add_value_length(s["head_dim"])
    w.add_rope_dimension_count(s["head_dim"])
    w.add_vocab_size(len(tokens))
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types([gguf.TokenType.CONTROL if t in bpe.SPECIAL else gguf.TokenType.NORMAL for t in tokens])
    w.add_token_merges([" ".join(m) for m in merges])
    w.add_eos_token_id(tokens.index("<|im_end|>"))
    w.add_pad_token_id(tokens.index("<|endoftext|>"))
    w.add_bos_token_id(tokens.index("<|endoftext|>"))
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)
    for name, p in model.named_parameters():
        x = p.detach().numpy().astype(np.float32)
        w.add_tensor(name, x if p.dim() == 1 else x.astype(np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.replace(path + ".part", path)


def read(path):
    """(model with the file's weights, tokenizer built from the file's own lists, id of <|im_end|>)"""
    r = gguf.GGUFReader(path)
    get = lambda key: r.fields[key].contents()
    tokens, merges = get("tokenizer.ggml.tokens"), [tuple(m.split(" ")) for m in get("tokenizer.ggml.merges")]
    shape = dict(
        n_layers=get("qwen2.block_count"), width=get("qwen2.embedding_length"), n_heads=get("qwen2.attention.head_count"),
        n_kv_heads=get("qwen2.attention.head_count_kv"), head_dim=get("qwen2.attention.key_length"), ffn=get("qwen2.feed_forward_length"),
        context=get("qwen2.context_length"), rope_theta=get("qwen2.rope.freq_base"), eps=get("qwen2.attention.layer_norm_rms_epsilon"),
    )
    model = Haiku(len(tokens), shape)
    weights = {t.name: torch.from_numpy(np.array(t.data, dtype=np.float32)).view(*reversed(t.shape.tolist())) for t in r.tensors}
    model.load_state_dict(weights)
    return model.eval(), bpe.tokenizer(tokens, merges), get("tokenizer.ggml.eos_token_id")
