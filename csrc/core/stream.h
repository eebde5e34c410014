// cudaStream_t for headers that name it and nothing else of CUDA.
#pragma once

#ifdef FASTREGION_SIMT
using cudaStream_t = void*;
#else
#include <cuda_runtime_api.h>
#endif
