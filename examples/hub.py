# Models on the hub: the lines of docs/how-to/hub.md.
# Names in capitals are yours to fill in.

from fae_core import load_generator, load_tokenizer

tokenizer, generator = load_tokenizer("cifar10"), load_generator("cifar10")
tokenizer.save_pretrained("my-tokenizer")
generator.save_pretrained("my-generator")
again = load_generator("my-generator", spec=load_tokenizer("my-tokenizer").spec)

# Not run by the tests: needs the hub and an account; tests/test_hub_files.py pushes to and fetches from a hub on this machine.
# from fae_core import load_generator, load_tokenizer
#
# load_tokenizer("my-tokenizer").push_to_hub("owner/my-tokenizer", commit_message="First version", private=True)
# tokenizer = load_tokenizer("owner/my-tokenizer", revision="main")
# generator = load_generator("owner/my-generator", spec=tokenizer.spec, cache_dir="models", local_files_only=False)
