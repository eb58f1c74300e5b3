// Runs an exported encoder.onnx on one image: C++17, ONNX Runtime alone.
//
//     onnx encoder.onnx photo.ppm PATCH MEAN_R MEAN_G MEAN_B STD_R STD_G STD_B
//
// The numbers are those of encoder.onnx.json: the patch size under "architecture", the other six under "preprocessing".
// Leave the six out for an artifact of `--input uint8`, which takes uint8 pixels and normalizes them in its graph.

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
  int64_t width, height;
  std::vector<uint8_t> pixels;  // (height, width, 3), RGB
};

int64_t read_number(std::istream& file) {
  while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  int64_t number = 0;
  file >> number;
  return number;
}

// Reads a binary PPM (P6).
Image read_ppm(const std::string& path, int64_t patch) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  file >> kind;
  const int64_t width = read_number(file), height = read_number(file), max_value = read_number(file);
  if (!file || kind != "P6" || max_value != 255) throw std::runtime_error(path + " is not a PPM file (P6, 8 bits)");
  if (width < patch || height < patch || width % patch || height % patch)
    throw std::runtime_error(path + ": width and height must be multiples of " + std::to_string(patch));
  file.get();  // the single whitespace character between header and pixels
  Image image{width, height, std::vector<uint8_t>(3 * width * height)};
  if (!file.read(reinterpret_cast<char*>(image.pixels.data()), image.pixels.size()))
    throw std::runtime_error(path + " ends too early");
  return image;
}

// Converts pixels to (3, height, width) float32, normalized; mean and std are for colors of 0 to 1.
std::vector<float> normalized(const Image& image, const std::vector<float>& mean_std) {
  const size_t area = image.pixels.size() / 3;
  std::vector<float> planes(image.pixels.size());
  for (size_t i = 0; i < planes.size(); ++i) {
    const size_t pixel = i / 3, color = i % 3;
    planes[color * area + pixel] = (image.pixels[i] / 255.0f - mean_std[color]) / mean_std[3 + color];
  }
  return planes;
}

void print_shape(const char* name, const Ort::Value& value) {
  const char* separator = "[";
  std::cout << name << ' ';
  for (const int64_t length : value.GetTensorTypeAndShapeInfo().GetShape()) {
    std::cout << separator << length;
    separator = ", ";
  }
  std::cout << "]\n";
}

int main(int argc, char** argv) try {
  const int64_t patch = argc > 3 ? std::atoll(argv[3]) : 0;
  if ((argc != 4 && argc != 10) || patch < 1) {
    std::cerr << "usage: onnx encoder.onnx photo.ppm PATCH [MEAN_R MEAN_G MEAN_B STD_R STD_G STD_B]\n";
    return 2;
  }
  std::vector<float> mean_std;
  for (int i = 4; i < argc; ++i) mean_std.push_back(std::stof(argv[i]));

  Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "gtsa");
  Ort::Session encoder(environment, argv[1], Ort::SessionOptions{});
  Image image = read_ppm(argv[2], patch);

  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::array<int64_t, 4> shape{1, image.height, image.width, 3};
  std::vector<float> planes;  // the tensor refers to these values and does not copy them
  Ort::Value images{nullptr};
  if (mean_std.empty()) {
    images = Ort::Value::CreateTensor<uint8_t>(memory, image.pixels.data(), image.pixels.size(), shape.data(), 4);
  } else {
    planes = normalized(image, mean_std);
    shape = {1, 3, image.height, image.width};
    images = Ort::Value::CreateTensor<float>(memory, planes.data(), planes.size(), shape.data(), 4);
  }

  const char* inputs[] = {"images"};
  const char* outputs[] = {"embedding", "feature_map"};
  const std::vector<Ort::Value> results = encoder.Run(Ort::RunOptions{}, inputs, &images, 1, outputs, 2);

  print_shape("images", images);
  print_shape("embedding", results[0]);    // (1, D)
  print_shape("feature_map", results[1]);  // (1, D, height/patch, width/patch)
  std::cout << "first values";
  for (int i = 0; i < 8; ++i) std::cout << ' ' << results[0].GetTensorData<float>()[i];
  std::cout << '\n';
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
