// Runs an exported encoder.onnx on one picture: C++17, ONNX Runtime and nothing else.
//
//     onnx encoder.onnx photo.ppm MEAN_R MEAN_G MEAN_B STD_R STD_G STD_B
//
// The six numbers are those of encoder.onnx.json, under "preprocessing". Leave them out for an artifact of
// `--input uint8`: it takes bytes and normalizes them itself.

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

constexpr int64_t kPatch = 16;

struct Picture {
  int64_t width, height;
  std::vector<uint8_t> pixels;  // (height, width, 3), RGB
};

int64_t read_number(std::istream& file) {
  while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  int64_t number = 0;
  file >> number;
  return number;
}

// A binary PPM (P6).
Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  file >> kind;
  const int64_t width = read_number(file), height = read_number(file), highest = read_number(file);
  if (!file || kind != "P6" || highest != 255) throw std::runtime_error(path + " is not a PPM file (P6, 8 bits)");
  if (width < kPatch || height < kPatch || width % kPatch || height % kPatch)
    throw std::runtime_error(path + ": width and height must be multiples of " + std::to_string(kPatch));
  file.get();  // the one blank between header and pixels
  Picture picture{width, height, std::vector<uint8_t>(3 * width * height)};
  if (!file.read(reinterpret_cast<char*>(picture.pixels.data()), picture.pixels.size()))
    throw std::runtime_error(path + " ends too early");
  return picture;
}

// Bytes to (3, height, width) float32; mean and std are for colors of 0 to 1.
std::vector<float> normalized(const Picture& picture, const std::vector<float>& numbers) {
  const size_t area = picture.pixels.size() / 3;
  std::vector<float> planes(picture.pixels.size());
  for (size_t i = 0; i < planes.size(); ++i) {
    const size_t pixel = i / 3, color = i % 3;
    planes[color * area + pixel] = (picture.pixels[i] / 255.0f - numbers[color]) / numbers[3 + color];
  }
  return planes;
}

void print_shape(const char* name, const Ort::Value& value) {
  const char* before = "[";
  std::cout << name << ' ';
  for (const int64_t length : value.GetTensorTypeAndShapeInfo().GetShape()) {
    std::cout << before << length;
    before = ", ";
  }
  std::cout << "]\n";
}

int main(int argc, char** argv) try {
  if (argc != 3 && argc != 9) {
    std::cerr << "usage: onnx encoder.onnx photo.ppm [MEAN_R MEAN_G MEAN_B STD_R STD_G STD_B]\n";
    return 2;
  }
  std::vector<float> numbers;
  for (int i = 3; i < argc; ++i) numbers.push_back(std::stof(argv[i]));

  Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "gtsa");
  Ort::Session encoder(environment, argv[1], Ort::SessionOptions{});
  Picture picture = read_ppm(argv[2]);

  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::array<int64_t, 4> shape{1, picture.height, picture.width, 3};
  std::vector<float> planes;  // the tensor below only points to its values
  Ort::Value images{nullptr};
  if (numbers.empty()) {
    images = Ort::Value::CreateTensor<uint8_t>(memory, picture.pixels.data(), picture.pixels.size(), shape.data(), 4);
  } else {
    planes = normalized(picture, numbers);
    shape = {1, 3, picture.height, picture.width};
    images = Ort::Value::CreateTensor<float>(memory, planes.data(), planes.size(), shape.data(), 4);
  }

  const char* inputs[] = {"images"};
  const char* outputs[] = {"embedding", "feature_map"};
  const std::vector<Ort::Value> results = encoder.Run(Ort::RunOptions{}, inputs, &images, 1, outputs, 2);

  print_shape("images", images);
  print_shape("embedding", results[0]);    // (1, D)
  print_shape("feature_map", results[1]);  // (1, D, height/16, width/16)
  std::cout << "first values";
  for (int i = 0; i < 8; ++i) std::cout << ' ' << results[0].GetTensorData<float>()[i];
  std::cout << '\n';
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
