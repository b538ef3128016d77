// Runs the artifact with LiteRT's C library (libLiteRt, version 2). Declares the functions that it calls; where LiteRT's
// own headers (litert/c/*.h) are at hand, include them instead.
//
//     qtools::LiteRtModelFile model("model.tflite");
//     auto answers = qtools::likeliest(model.run(qtools::prepare(picture)));
//
// The `outputs` of a detector go through `elements` into `objects`, as in replay.cpp, and `uncut` leads a box back to the
// whole picture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "qtools_vision.hpp"

extern "C" {
typedef struct LiteRtEnvironmentT* LiteRtEnvironment;
typedef struct LiteRtModelT* LiteRtModel;
typedef struct LiteRtOptionsT* LiteRtOptions;
typedef struct LiteRtCompiledModelT* LiteRtCompiledModel;
typedef struct LiteRtSignatureT* LiteRtSignature;
typedef struct LiteRtTensorT* LiteRtTensor;
typedef struct LiteRtTensorBufferRequirementsT* LiteRtTensorBufferRequirements;
typedef struct LiteRtTensorBufferT* LiteRtTensorBuffer;

int LiteRtCreateEnvironment(int count, const void* options, LiteRtEnvironment* made);
int LiteRtCreateModelFromFile(LiteRtEnvironment environment, const char* path, LiteRtModel* made);
int LiteRtCreateOptions(LiteRtOptions* made);
int LiteRtSetOptionsHardwareAccelerators(LiteRtOptions options, int accelerators);
int LiteRtCreateCompiledModel(LiteRtEnvironment, LiteRtModel, LiteRtOptions, LiteRtCompiledModel* made);
int LiteRtGetModelSignature(LiteRtModel model, std::size_t index, LiteRtSignature* found);
int LiteRtGetSignatureInputTensorByIndex(LiteRtSignature signature, std::size_t index, LiteRtTensor* found);
int LiteRtGetNumSignatureOutputs(LiteRtSignature signature, std::size_t* count);
int LiteRtGetSignatureOutputName(LiteRtSignature signature, std::size_t index, const char** found);
int LiteRtGetSignatureOutputTensorByIndex(LiteRtSignature signature, std::size_t index, LiteRtTensor* found);
int LiteRtGetRankedTensorType(LiteRtTensor tensor, void* type);
int LiteRtGetCompiledModelInputBufferRequirements(LiteRtCompiledModel, std::size_t signature, std::size_t index,
                                                  LiteRtTensorBufferRequirements* found);
int LiteRtGetCompiledModelOutputBufferRequirements(LiteRtCompiledModel, std::size_t signature, std::size_t index,
                                                   LiteRtTensorBufferRequirements* found);
int LiteRtCreateManagedTensorBufferFromRequirements(LiteRtEnvironment, const void* type,
                                                    LiteRtTensorBufferRequirements, LiteRtTensorBuffer* made);
int LiteRtLockTensorBuffer(LiteRtTensorBuffer buffer, void** memory, int mode);
int LiteRtUnlockTensorBuffer(LiteRtTensorBuffer buffer);
int LiteRtRunCompiledModel(LiteRtCompiledModel, std::size_t signature, std::size_t inputs, LiteRtTensorBuffer*,
                           std::size_t outputs, LiteRtTensorBuffer*);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer buffer);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel compiled);
void LiteRtDestroyOptions(LiteRtOptions options);
void LiteRtDestroyModel(LiteRtModel model);
void LiteRtDestroyEnvironment(LiteRtEnvironment environment);
}

namespace qtools {

class LiteRtModelFile {
public:
    explicit LiteRtModelFile(const std::string& path) {
        check(LiteRtCreateEnvironment(0, nullptr, &environment_), "LiteRtCreateEnvironment");
        check(LiteRtCreateModelFromFile(environment_, path.c_str(), &model_), "LiteRtCreateModelFromFile");
        check(LiteRtCreateOptions(&options_), "LiteRtCreateOptions");
        check(LiteRtSetOptionsHardwareAccelerators(options_, cpu), "LiteRtSetOptionsHardwareAccelerators");
        check(LiteRtCreateCompiledModel(environment_, model_, options_, &compiled_), "LiteRtCreateCompiledModel");
        LiteRtSignature signature = nullptr;
        check(LiteRtGetModelSignature(model_, 0, &signature), "LiteRtGetModelSignature");
        LiteRtTensor tensor = nullptr;
        LiteRtTensorBufferRequirements wants = nullptr;
        check(LiteRtGetSignatureInputTensorByIndex(signature, 0, &tensor), "LiteRtGetSignatureInputTensorByIndex");
        check(LiteRtGetCompiledModelInputBufferRequirements(compiled_, 0, 0, &wants), "input requirements");
        input_ = buffer(tensor, wants);
        std::size_t count = 0;
        check(LiteRtGetNumSignatureOutputs(signature, &count), "LiteRtGetNumSignatureOutputs");
        std::vector<std::string> names;
        for (std::size_t at = 0; at < count; ++at) {
            const char* name = nullptr;
            check(LiteRtGetSignatureOutputName(signature, at, &name), "LiteRtGetSignatureOutputName");
            names.push_back(name);
            check(LiteRtGetSignatureOutputTensorByIndex(signature, at, &tensor), "an output's tensor");
            check(LiteRtGetCompiledModelOutputBufferRequirements(compiled_, 0, at, &wants), "output requirements");
            outputs_.push_back(buffer(tensor, wants));
        }
        for (const contract::End& end : contract::ends) places_.push_back(place(names, end.name));
    }
    LiteRtModelFile(const LiteRtModelFile&) = delete;
    LiteRtModelFile& operator=(const LiteRtModelFile&) = delete;
    ~LiteRtModelFile() {
        if (input_) LiteRtDestroyTensorBuffer(input_);
        for (LiteRtTensorBuffer output : outputs_) LiteRtDestroyTensorBuffer(output);
        if (compiled_) LiteRtDestroyCompiledModel(compiled_);
        if (options_) LiteRtDestroyOptions(options_);
        if (model_) LiteRtDestroyModel(model_);
        if (environment_) LiteRtDestroyEnvironment(environment_);
    }

    // The output for an input tensor, both as they are.
    std::vector<contract::Answer> run(const std::vector<contract::Element>& tensor) {
        return elements<contract::Answer>(outputs(tensor)[0]);
    }

    // The bytes of all outputs for an input tensor, in the order of contract::ends: of a detector there are two.
    std::vector<std::vector<std::uint8_t>> outputs(const std::vector<contract::Element>& tensor) {
        void* memory = nullptr;
        check(LiteRtLockTensorBuffer(input_, &memory, write), "LiteRtLockTensorBuffer");
        std::memcpy(memory, tensor.data(), tensor.size() * sizeof(contract::Element));
        check(LiteRtUnlockTensorBuffer(input_), "LiteRtUnlockTensorBuffer");
        check(LiteRtRunCompiledModel(compiled_, 0, 1, &input_, outputs_.size(), outputs_.data()),
              "LiteRtRunCompiledModel");
        std::vector<std::vector<std::uint8_t>> found;
        for (std::size_t at = 0; at < places_.size(); ++at) {
            LiteRtTensorBuffer output = outputs_[places_[at]];
            check(LiteRtLockTensorBuffer(output, &memory, read), "LiteRtLockTensorBuffer");
            const std::uint8_t* bytes = static_cast<const std::uint8_t*>(memory);
            found.emplace_back(bytes, bytes + contract::ends[at].bytes);
            check(LiteRtUnlockTensorBuffer(output), "LiteRtUnlockTensorBuffer");
        }
        return found;
    }

private:
    static constexpr int cpu = 1, read = 0, write = 1;

    static void check(int status, const char* what) {
        if (status != 0) throw std::runtime_error(std::string(what) + " ends in status " + std::to_string(status));
    }

    // The file's outputs have the names that the contract gives them; where there is one, it is that one.
    static std::size_t place(const std::vector<std::string>& names, const std::string& name) {
        if (names.size() == 1) return 0;
        for (std::size_t at = 0; at < names.size(); ++at) {
            if (names[at] == name) return at;
        }
        throw std::runtime_error("the file has no output " + name);
    }

    LiteRtTensorBuffer buffer(LiteRtTensor tensor, LiteRtTensorBufferRequirements wants) {
        alignas(std::max_align_t) unsigned char type[1024] = {};  // more than LiteRtRankedTensorType has; passed on unread
        check(LiteRtGetRankedTensorType(tensor, type), "LiteRtGetRankedTensorType");
        LiteRtTensorBuffer made = nullptr;
        check(LiteRtCreateManagedTensorBufferFromRequirements(environment_, type, wants, &made), "a tensor buffer");
        return made;
    }

    LiteRtEnvironment environment_ = nullptr;
    LiteRtModel model_ = nullptr;
    LiteRtOptions options_ = nullptr;
    LiteRtCompiledModel compiled_ = nullptr;
    LiteRtTensorBuffer input_ = nullptr;
    std::vector<LiteRtTensorBuffer> outputs_;  // all of the file, in its order
    std::vector<std::size_t> places_;          // of those of the contract among them
};

}  // namespace qtools
