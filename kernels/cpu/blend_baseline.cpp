// Compiled with the default flags: runs on every processor of the target architecture.
#define F3D_ISA baseline
#include "blend.inc"
