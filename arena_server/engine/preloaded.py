"""Modules that the zygote imports ahead of its engines, which would import each of them at every start. Pure.

All were seen to be imported by a served model (vLLM 0.32, CPU) after the server itself was. Absent ones (another
version or platform) are skipped, and what is missing here costs an engine time, nothing else.
"""

from __future__ import annotations

_ENTRY = "vllm.entrypoints"

# The API server, the engine core, and what a model's class needs on every platform.
EVERYWHERE = (
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.core.sched.scheduler",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.executor.uniproc_executor",
    "vllm.model_executor.model_loader.default_loader",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.mistral",
    "vllm.model_executor.models.qwen2",
    "vllm.renderers.hf",
    "vllm.transformers_utils.chat_templates",
    f"{_ENTRY}.launchers.app",
    f"{_ENTRY}.launchers.api_server.app_state",
    f"{_ENTRY}.launchers.api_server.routers",
    f"{_ENTRY}.anthropic.api_router",
    f"{_ENTRY}.cohere.api_router",
    f"{_ENTRY}.generate.api_router",
    f"{_ENTRY}.generate.generative_scoring.api_router",
    f"{_ENTRY}.generate.generative_scoring.serving",
    f"{_ENTRY}.generate.structured_decisions.api_router",
    f"{_ENTRY}.openai.chat_completion.api_router",
    f"{_ENTRY}.openai.chat_completion.batch_serving",
    f"{_ENTRY}.openai.completion.api_router",
    f"{_ENTRY}.openai.models.api_router",
    f"{_ENTRY}.openai.responses.api_router",
    f"{_ENTRY}.scale_out.derender.api_router",
    f"{_ENTRY}.scale_out.factories",
    f"{_ENTRY}.scale_out.render.api_router",
    f"{_ENTRY}.scale_out.token_in_token_out.api_router",
    f"{_ENTRY}.serve.elastic_ep.api_router",
    f"{_ENTRY}.serve.instrumentator.metrics",
    f"{_ENTRY}.serve.instrumentator.offline_docs",
    f"{_ENTRY}.serve.lora.api_router",
    f"{_ENTRY}.serve.profile.api_router",
    f"{_ENTRY}.serve.tokenize.api_router",
    f"{_ENTRY}.serve.utils.fingerprint",
    "model_hosting_container_standards.sagemaker",
    "model_hosting_container_standards.common.custom_code_ref_resolver",
    "pydantic.v1",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
)

ON_GPU = ("vllm.v1.worker.gpu_worker",)

# The last ones are likely to be of use on a GPU as well, but nobody has seen there that they leave CUDA alone.
ON_CPU = (
    "vllm.v1.worker.cpu_worker",
    "vllm.triton_utils.dispatcher",
    "vllm.utils.cpu_triton_utils",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.distributed.elastic_ep.elastic_execute",
    "vllm.model_executor.layers.quantization.compressed_tensors.utils",
    "vllm.model_executor.layers.quantization.online.base",
    "vllm.v1.pool.flash_maxsim",
)
