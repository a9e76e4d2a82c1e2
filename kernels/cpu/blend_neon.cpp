// Compiled on 64-bit Arm only, where every processor has NEON.
#define F3D_ISA neon
#define F3D_NEON 1
#include "blend.inc"
