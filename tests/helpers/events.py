"""Reads TensorBoard's files as TensorBoard does."""

import struct

from tensorboardX.proto import event_pb2
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData


def read(directory):
    """Returns what TensorBoard shows of a directory.

    Returns:
      The number of each (tag, step), which must not be written twice, and the hyperparameters.
    """
    shown, hparams = {}, {}
    for path in sorted(directory.iterdir(), key=lambda path: int(path.name.rpartition(".")[2])):
        for event in _events(path.read_bytes()):
            if event.HasField("session_log"):  # what is as late is forgotten
                shown = {(tag, step): value for (tag, step), value in shown.items() if step < event.step}
                hparams = hparams if event.step else {}  # they are written at step 0
            for value in event.summary.value:
                if value.tag.startswith("_hparams_/"):
                    content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    for name, number in content.session_start_info.hparams.items():
                        assert name not in hparams, f"{name} is written twice"
                        hparams[name] = getattr(number, number.WhichOneof("kind"))
                    continue
                assert (value.tag, event.step) not in shown, f"{value.tag} is written twice at step {event.step}"
                shown[value.tag, event.step] = value.simple_value
    return shown, hparams


def _events(content):
    while content:
        (length,) = struct.unpack_from("<Q", content)  # followed by a checksum of 4 bytes, as is the event
        yield event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
