"""A typical hand-written model server: FastAPI and ONNX Runtime, with V2 JSON requests and responses.

    python bench/fastapi_server.py MODEL PORT [tuned]

By default as FastAPI's documentation recommends: bodies and responses are pydantic models, and blocking code is a plain
`def`, which runs in a thread. Tuned: runs in the event loop, and the response is not validated. Both use a process per
core, uvloop and httptools, and one thread per run.
"""

import os
import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel

DATATYPES = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
OF_ARRAY = {np.dtype(kind): name for name, kind in DATATYPES.items()}


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float] | list[int]


class Request(BaseModel):
    inputs: list[Tensor]


class Answer(BaseModel):
    model_name: str
    outputs: list[Tensor]


app = FastAPI()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(os.environ.get("MODEL") or sys.argv[1], options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]


def score(model, request):
    try:
        inputs = {x.name: np.array(x.data, DATATYPES[x.datatype]).reshape(x.shape) for x in request.inputs}
        values = session.run(names, inputs)
    except (KeyError, ValueError, RuntimeError) as error:
        raise HTTPException(400, str(error)) from error
    outputs = [{"name": name, "shape": value.shape, "datatype": OF_ARRAY[value.dtype], "data": value.ravel().tolist()}
               for name, value in zip(names, values)]
    return {"model_name": model, "outputs": outputs}


def plain(model: str, request: Request) -> Answer:
    return score(model, request)


async def tuned(model: str, request: Request):
    return JSONResponse(score(model, request))


app.post("/v2/models/{model}/infer")(tuned if "TUNED" in os.environ else plain)

if __name__ == "__main__":
    os.environ["MODEL"] = sys.argv[1]
    if "tuned" in sys.argv:
        os.environ["TUNED"] = "1"
    uvicorn.run("fastapi_server:app", host="127.0.0.1", port=int(sys.argv[2]), workers=os.cpu_count(), loop="uvloop",
                http="httptools", access_log=False, log_level="warning")
