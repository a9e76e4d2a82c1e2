"use strict";
// The sliders of one picture move together, so that PCA and k-means show the same cut.
for (const card of document.querySelectorAll(".picture")) {
  const sliders = card.querySelectorAll(".slider");
  const inputs = card.querySelectorAll(".slider input");
  for (const input of inputs) {
    input.addEventListener("input", () => {
      for (const slider of sliders) slider.style.setProperty("--cut", input.value + "%");
      for (const other of inputs) other.value = input.value;
    });
  }
}
