// Runs the artifact with LiteRT's C library (libLiteRt, version 2). Declares the functions that it calls; where LiteRT's
// own headers (litert/c/*.h) are at hand, include them instead.
#pragma once

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "qtools_contract.hpp"

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
        check(LiteRtGetSignatureOutputTensorByIndex(signature, 0, &tensor), "LiteRtGetSignatureOutputTensorByIndex");
        check(LiteRtGetCompiledModelOutputBufferRequirements(compiled_, 0, 0, &wants), "output requirements");
        output_ = buffer(tensor, wants);
    }
    LiteRtModelFile(const LiteRtModelFile&) = delete;
    LiteRtModelFile& operator=(const LiteRtModelFile&) = delete;
    ~LiteRtModelFile() {
        if (input_) LiteRtDestroyTensorBuffer(input_);
        if (output_) LiteRtDestroyTensorBuffer(output_);
        if (compiled_) LiteRtDestroyCompiledModel(compiled_);
        if (options_) LiteRtDestroyOptions(options_);
        if (model_) LiteRtDestroyModel(model_);
        if (environment_) LiteRtDestroyEnvironment(environment_);
    }

    std::vector<contract::Answer> run(const std::vector<contract::Element>& tensor) {
        void* memory = nullptr;
        check(LiteRtLockTensorBuffer(input_, &memory, write), "LiteRtLockTensorBuffer");
        std::memcpy(memory, tensor.data(), tensor.size() * sizeof(contract::Element));
        check(LiteRtUnlockTensorBuffer(input_), "LiteRtUnlockTensorBuffer");
        check(LiteRtRunCompiledModel(compiled_, 0, 1, &input_, 1, &output_), "LiteRtRunCompiledModel");
        std::vector<contract::Answer> found(contract::answers);
        check(LiteRtLockTensorBuffer(output_, &memory, read), "LiteRtLockTensorBuffer");
        std::memcpy(found.data(), memory, found.size() * sizeof(contract::Answer));
        check(LiteRtUnlockTensorBuffer(output_), "LiteRtUnlockTensorBuffer");
        return found;
    }

private:
    static constexpr int cpu = 1, read = 0, write = 1;

    static void check(int status, const char* what) {
        if (status != 0) throw std::runtime_error(std::string(what) + " ends in status " + std::to_string(status));
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
    LiteRtTensorBuffer output_ = nullptr;
};

}  // namespace qtools
