// Tokens by pixel: which of them a pixel belongs to, and which ones a tile touches.
#pragma once

#include "fit3d/macros.h"

namespace fit3d {

struct TokenAxis {
  const int32_t* first;  // [pixels] the pixel counts for token first[p] and the next one
  const float* weights;  // [pixels, 2] by so much
};
struct TokenMap {
  int width, height;
  TokenAxis x, y;
};
struct TileTokens {
  int column, row, columns, rows;  // of the grid
};

static inline TileTokens tile_tokens(const TokenMap& map, int x, int y) {
  const int last_x = (x + kTile < map.width ? x + kTile : map.width) - 1;
  const int last_y = (y + kTile < map.height ? y + kTile : map.height) - 1;
  const int column = map.x.first[x], row = map.y.first[y];
  return {column, row, map.x.first[last_x] + (map.x.weights[2 * last_x + 1] > 0) - column + 1,
          map.y.first[last_y] + (map.y.weights[2 * last_y + 1] > 0) - row + 1};
}

}  // namespace fit3d
