// Compiled with -mavx2 -mfma on x86-64 only; dispatch.cpp asks the processor before using it.
#define F3D_ISA avx2
#define F3D_AVX2 1
#include "blend.inc"
