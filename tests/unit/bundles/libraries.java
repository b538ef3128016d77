// Declarations of the libraries that an Android bundle uses, as LiteRT 1.4, AndroidX and JUnit 4 document them and as far as
// our sources use them. test_android.py lays each part down as a file of its own.

package org.tensorflow.lite;
public enum DataType { FLOAT32, INT32, UINT8, INT64, STRING, BOOL, INT16, INT8 }

package org.tensorflow.lite;
public interface Tensor { DataType dataType(); String name(); int numBytes(); int[] shape(); }

package org.tensorflow.lite;
public interface Delegate extends java.io.Closeable { long getNativeHandle(); default void close() {} }

package org.tensorflow.lite;
public final class Interpreter implements AutoCloseable {
    public static class Options {
        public Options setNumThreads(int numThreads) { return this; }
        public Options setUseXNNPACK(boolean useXNNPACK) { return this; }
        public Options addDelegate(Delegate delegate) { return this; }
    }
    public Interpreter(java.nio.ByteBuffer byteBuffer, Options options) {}
    public void runForMultipleInputsOutputs(Object[] inputs, java.util.Map<Integer, Object> outputs) {}
    public int getOutputTensorCount() { return 0; }
    public Tensor getInputTensor(int inputIndex) { return null; }
    public Tensor getOutputTensor(int outputIndex) { return null; }
    @Override public void close() {}
}

package androidx.lifecycle;
public interface LifecycleOwner {}

package androidx.activity.result;
public interface ActivityResultCallback<O> { void onActivityResult(O result); }

package androidx.activity.result;
public abstract class ActivityResultLauncher<I> { public void launch(I input) {} }

package androidx.activity.result.contract;
public abstract class ActivityResultContract<I, O> {}

package androidx.activity.result.contract;
public final class ActivityResultContracts {
    public static final class RequestPermission extends ActivityResultContract<String, Boolean> {}
}

package androidx.activity;
public class ComponentActivity extends android.app.Activity implements androidx.lifecycle.LifecycleOwner {
    public final <I, O> androidx.activity.result.ActivityResultLauncher<I> registerForActivityResult(
        androidx.activity.result.contract.ActivityResultContract<I, O> contract,
        androidx.activity.result.ActivityResultCallback<O> callback) { return null; }
}

package androidx.camera.core;
public interface ImageInfo { int getRotationDegrees(); }

package androidx.camera.core;
public interface ImageProxy extends AutoCloseable {
    ImageInfo getImageInfo();
    android.graphics.Rect getCropRect();
    int getWidth();
    int getHeight();
    android.graphics.Bitmap toBitmap();
    @Override void close();
}

package androidx.camera.core;
public final class ImageAnalysis {
    public interface Analyzer {
        void analyze(ImageProxy image);
        default android.util.Size getDefaultTargetResolution() { return null; }
        default int getTargetCoordinateSystem() { return 0; }
        default void updateTransform(android.graphics.Matrix matrix) {}
    }
}

package androidx.camera.view;
public abstract class CameraController {
    public static final int IMAGE_ANALYSIS = 2;
    public void setEnabledUseCases(int enabledUseCases) {}
    public void setImageAnalysisAnalyzer(
        java.util.concurrent.Executor executor, androidx.camera.core.ImageAnalysis.Analyzer analyzer) {}
}

package androidx.camera.view;
public final class LifecycleCameraController extends CameraController {
    public LifecycleCameraController(android.content.Context context) {}
    public void bindToLifecycle(androidx.lifecycle.LifecycleOwner lifecycleOwner) {}
}

package androidx.camera.view;
public final class PreviewView extends android.widget.FrameLayout {
    public PreviewView(android.content.Context context) { super(context); }
    public CameraController getController() { return null; }
    public void setController(CameraController cameraController) {}
}

package androidx.test.platform.app;
public final class InstrumentationRegistry {
    public static android.app.Instrumentation getInstrumentation() { return null; }
    public static android.os.Bundle getArguments() { return null; }
}

package org.junit.runner;
public abstract class Runner {}

package org.junit.runner;
public @interface RunWith { Class<? extends Runner> value(); }

package androidx.test.ext.junit.runners;
public final class AndroidJUnit4 extends org.junit.runner.Runner { public AndroidJUnit4(Class<?> klass) {} }

package org.junit;
public @interface Test {}

package org.junit;
public class Assert {
    public static void assertTrue(boolean condition) {}
    public static void assertTrue(String message, boolean condition) {}
    public static void assertFalse(boolean condition) {}
    public static void assertEquals(Object expected, Object actual) {}
    public static void assertEquals(long expected, long actual) {}
    public static void assertEquals(String message, Object expected, Object actual) {}
    public static void assertEquals(String message, long expected, long actual) {}
    public static void assertArrayEquals(String message, byte[] expecteds, byte[] actuals) {}
}
