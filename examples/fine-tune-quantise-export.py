# Fine-tune, quantise, export: the lines of docs/fine-tune-quantise-export.md.
# Names in capitals are yours to fill in.

import shlex
import subprocess

# Not run by the tests: installs from the package index.
# pip install peft torchao onnx onnxscript onnxruntime

subprocess.run(shlex.split('fae encode --data photos --model cifar10 --out latents'), check=True)

# Not run by the tests: some minutes; tests/test_init.py runs such lines on small models.
# fae train diffusion --init cifar10 --latents latents --out runs/fine-tuned --preset lightningdit-cifar10-small --steps 500 --batch-size 32 --set training.learning_rate=5e-5

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import DataLoader

from fae_core import LatentStore, load_generator, load_tokenizer

tokenizer = load_tokenizer("cifar10")
store = LatentStore("latents", spec=tokenizer.spec)

adapted = get_peft_model(load_generator("cifar10"), LoraConfig(r=8, lora_alpha=16, target_modules=["qkv", "proj"]))
generator = adapted.get_base_model()  # has loss, sample and velocity
optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-4)

generator.train()
for batch in DataLoader(store, batch_size=8, shuffle=True, drop_last=True):
    loss = generator.loss(batch["z"], batch["label"])["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
generator.eval()
adapted.save_pretrained("lora")

again = PeftModel.from_pretrained(load_generator("cifar10"), "lora").get_base_model()
merged = PeftModel.from_pretrained(load_generator("cifar10"), "lora").merge_and_unload()
merged.save_pretrained("fine-tuned")

from torchao.quantization import Int8WeightOnlyConfig, quantize_

small = load_generator("cifar10")
quantize_(small, Int8WeightOnlyConfig())
labels = torch.tensor([0, 3])
images = tokenizer.decode(small.sample(labels, noise=torch.randn(2, *tokenizer.spec.shape), steps=8))

class Call(torch.nn.Module):
    def __init__(self, model, method):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *inputs):
        return getattr(self.model, self.method)(*inputs)


generator = load_generator("cifar10")
height, width = tokenizer.spec.image_shape
pictures = torch.rand(2, 3, height, width)
z, t, labels = torch.randn(2, *tokenizer.spec.shape), torch.rand(2), torch.tensor([0, 3])
calls = {
    "encode": (tokenizer, (pictures,)),
    "decode": (tokenizer, (z,)),
    "velocity": (generator, (z, t, labels)),
}
batch = torch.export.Dim("batch", min=1, max=1024)
programs = {}
with torch.no_grad():
    for method, (model, inputs) in calls.items():
        shapes = (tuple({0: batch} for _ in inputs),)
        programs[method] = torch.export.export(Call(model, method), inputs, dynamic_shapes=shapes)
        torch.export.save(programs[method], f"{method}.pt2")

import onnxruntime

results = {}
for method, (model, inputs) in calls.items():
    torch.onnx.export(programs[method], (), f"{method}.onnx")
    session = onnxruntime.InferenceSession(f"{method}.onnx")
    names = [one.name for one in session.get_inputs()]
    (results[method],) = session.run(None, dict(zip(names, (i.numpy() for i in inputs))))
