"""Plugin for SPDK's stock JSON-RPC client that calls any method of varve by its name:

    PYTHONPATH=scripts spdk-rpc -s varve-data/rpc.sock --plugin varve_rpc_plugin call volume_create '{"name": "a", "size": "1GiB"}'
"""

import json


def spdk_rpc_plugin_initialize(subparsers):
    """Adds the command `call METHOD [JSON-PARAMS]`."""

    def call(args):
        print(json.dumps(args.client.call(args.method, args.params), indent=2))

    parser = subparsers.add_parser("call", help="Call any method by its name")
    parser.add_argument("method", help="the method; rpc_get_methods lists them")
    parser.add_argument("params", help="its parameters, a JSON object", type=json.loads, nargs="?", default=None)
    parser.set_defaults(func=call)
