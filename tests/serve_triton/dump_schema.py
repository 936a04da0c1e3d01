"""Prints the fields of Triton's model configuration as its own client describes them; run by the client's interpreter."""

import json

from google.protobuf.descriptor import FieldDescriptor as F
from tritonclient.grpc import model_config_pb2

PLAIN = {
    F.TYPE_STRING: "string", F.TYPE_BYTES: "string", F.TYPE_BOOL: "bool", F.TYPE_FLOAT: "float", F.TYPE_DOUBLE: "float",
    F.TYPE_INT32: "int32", F.TYPE_INT64: "int64", F.TYPE_UINT32: "uint32", F.TYPE_UINT64: "uint64",
}  # fmt: skip
messages, enums = {}, {}


def short(described):
    return described.full_name.split(".", 1)[1]


def visit(message):
    if short(message) in messages:
        return
    fields = messages[short(message)] = {}
    for field in message.fields:
        if field.type == F.TYPE_MESSAGE:
            kind = short(field.message_type)
            visit(field.message_type)
        elif field.type == F.TYPE_ENUM:
            kind = short(field.enum_type)
            enums[kind] = [value.name for value in field.enum_type.values]
        else:
            kind = PLAIN[field.type]
        many = "*" if field.is_repeated else ""
        group = f"|{field.containing_oneof.name}" if field.containing_oneof else ""
        fields[field.name] = kind + many + group


visit(model_config_pb2.ModelConfig.DESCRIPTOR)
print(json.dumps({"messages": messages, "enums": enums}))
