"""Tests with the unchanged clients of KServe (V1, V2 in JSON and binary, gRPC) and MLflow (pandas tables and tensors).

    python tests/conformance/clients_kserve.py target/release/drisse
"""

import asyncio
import json
import logging
import pathlib
import sys

import httpx
import numpy as np
import pandas as pd
from kserve import InferInput, InferRequest, InferenceGRPCClient, InferenceRESTClient, RESTConfig
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from drisse import Server, run_tests

ROOT = pathlib.Path(__file__).parent.parent.parent
MODELS = ROOT / "crates/drisse-engines/tests/models"
EXAMPLES = ROOT / "examples"
SAMPLE = np.array(json.loads((EXAMPLES / "digits/sample.json").read_text())["data"], np.float32)


def request(model, name, value, binary, datatype="FP32"):
    given = InferInput(name, list(value.shape), datatype)
    given.set_data_from_numpy(value, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[given])


async def test_v1_scores_rows_and_reports_readiness(several, _):
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        answer = await client.infer(several, {"instances": SAMPLE.tolist() * 2}, model_name="digits")
        assert len(answer["predictions"]) == 2
        assert await client.is_model_ready(several, "digits") is True
        try:
            await client.infer(several, {"instances": [[1]]}, model_name="digits")
            raise AssertionError("an input of one number was accepted for 64 pixels")
        except httpx.HTTPStatusError as error:
            assert "shape [1, 1] does not match [batch, 64]" in str(error)


async def test_v2_carries_tensors_as_json_and_as_bytes(several, _):
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(several) and await client.is_server_ready(several)
        assert await client.is_model_ready(several, "digits") and not await client.is_model_ready(several, "nothing")
        answers = []
        for binary in (False, True):
            body = request("digits", "X", SAMPLE, binary)
            answers.append(await client.infer(several, body, model_name="digits"))
        for one, other in zip(*(answer.outputs for answer in answers)):
            assert one.name == other.name and (one.as_numpy() == other.as_numpy()).all()
        values = np.array([1.5, -2, 3], np.float32)
        answer = await client.infer(several, request("echo", "x", values, True), model_name="echo")
        assert (answer.outputs[0].as_numpy() == values).all()


async def test_grpc_does_the_same(several, _):
    async with InferenceGRPCClient(several.removeprefix("http://")) as client:
        assert await client.is_server_ready() and await client.is_server_live() and await client.is_model_ready("echo")
        values = np.linspace(-1, 1, 5, dtype=np.float32)
        for binary in (False, True):
            answer = await client.infer(request("echo", "x", values, binary))
            assert (answer.outputs[0].as_numpy() == values).all() and answer.model_name == "echo"


async def test_mlflow_s_client_sends_tables_and_tensors(_, alone):
    host, port = alone.removeprefix("http://").split(":")
    client = ScoringServerClient(host, port)
    client.ping()
    assert client.get_version()
    rows = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])
    names = ["sepal length", "sepal width", "petal length", "petal width"]
    given = [pd.DataFrame(rows, columns=names), rows, pd.DataFrame(rows), rows.tolist()]
    answers = [client.invoke(data)["predictions"] for data in given]
    # MLflow answers tables with records, and tensors with whole outputs by name.
    table, array, *others = answers
    assert others == [table, array] and len(table) == 2, answers
    assert array == {name: [row[name] for row in table] for name in table[0]}, answers
    # MLflow's client can read the response as a table.
    assert len(client.invoke(given[0]).get_predictions()) == 2
    try:
        client.invoke(pd.DataFrame(rows[:, :3]))
        raise AssertionError("a table of three columns was accepted for four features")
    except Exception as error:  # noqa: BLE001: MLflow raises a plain Exception
        assert "shape [2, 3] does not match [batch, 4]" in str(error), error


def main(binary):
    logging.disable(logging.CRITICAL)
    several = Server(binary, [str(MODELS / "echo.onnx"), str(EXAMPLES / "digits")], listen=True)
    alone = Server(binary, [str(EXAMPLES / "iris")], listen=True)
    urls = several.ready["url"], alone.ready["url"]
    failed = run_tests(sys.modules[__name__], lambda _, test: asyncio.run(test(*urls)))
    several.close()
    alone.close()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) > 0)
