// Runs an exported encoder.ts on one image: C++20, libtorch alone.
//
//     torchscript encoder.ts photo.ppm PATCH MEAN_R MEAN_G MEAN_B STD_R STD_G STD_B
//
// The numbers are those of encoder.ts.json: the patch size under "architecture", the other six under "preprocessing".
// Leave the six out for an artifact of `--input uint8`, which takes uint8 pixels and normalizes them in its graph.

#include <torch/script.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

int64_t read_number(std::istream& file) {
  while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  int64_t number = 0;
  file >> number;
  return number;
}

// Reads a binary PPM (P6) as (1, height, width, 3) uint8, RGB.
torch::Tensor read_ppm(const std::string& path, int64_t patch) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  file >> kind;
  const int64_t width = read_number(file), height = read_number(file), max_value = read_number(file);
  if (!file || kind != "P6" || max_value != 255) throw std::runtime_error(path + " is not a PPM file (P6, 8 bits)");
  // The artifact raises no error: it ignores pixels beyond the last full patch.
  if (width < patch || height < patch || width % patch || height % patch)
    throw std::runtime_error(path + ": width and height must be multiples of " + std::to_string(patch));
  file.get();  // the single whitespace character between header and pixels
  torch::Tensor pixels = torch::empty({1, height, width, 3}, torch::kUInt8);
  if (!file.read(reinterpret_cast<char*>(pixels.data_ptr<uint8_t>()), pixels.numel()))
    throw std::runtime_error(path + " ends too early");
  return pixels;
}

// Converts pixels to (1, 3, height, width) float32, normalized; mean and std are for colors of 0 to 1.
torch::Tensor normalized(const torch::Tensor& pixels, const std::vector<float>& mean_std) {
  const torch::Tensor stats = torch::tensor(mean_std).view({2, 1, 3, 1, 1});
  return ((pixels.permute({0, 3, 1, 2}) / 255.0 - stats[0]) / stats[1]).contiguous();
}

int main(int argc, char** argv) try {
  const int64_t patch = argc > 3 ? std::atoll(argv[3]) : 0;
  if ((argc != 4 && argc != 10) || patch < 1) {
    std::cerr << "usage: torchscript encoder.ts photo.ppm PATCH [MEAN_R MEAN_G MEAN_B STD_R STD_G STD_B]\n";
    return 2;
  }
  std::vector<float> mean_std;
  for (int i = 4; i < argc; ++i) mean_std.push_back(std::stof(argv[i]));

  const c10::InferenceMode no_gradients;
  torch::jit::Module encoder = torch::jit::load(argv[1]);
  torch::Tensor images = read_ppm(argv[2], patch);
  if (!mean_std.empty()) images = normalized(images, mean_std);

  const auto outputs = encoder.forward({images}).toTuple();
  const torch::Tensor embedding = outputs->elements()[0].toTensor();    // (1, D)
  const torch::Tensor feature_map = outputs->elements()[1].toTensor();  // (1, D, height/patch, width/patch)

  std::cout << "images " << images.sizes() << "\nembedding " << embedding.sizes() << "\nfeature_map "
            << feature_map.sizes() << "\nfirst values";
  for (int64_t i = 0; i < 8; ++i) std::cout << ' ' << embedding[0][i].item<float>();
  std::cout << '\n';
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
