"""Tar shards on a web server, in object storage or on the Hugging Face hub, copied to a local folder of bounded size."""
